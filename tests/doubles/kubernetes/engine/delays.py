"""The delays of a real cluster, in seconds at pace 1. They are those of the recordings, unless it
is said otherwise.
"""

# The Job controller.
#: From a change of a Job itself to the look at it, and from a change of something around it:
#: several are told at once.
JOB_AT_ONCE, JOB_BATCH = 0.01, 1.0
#: From the end of a Job to that of the tracking of its pods.
JOB_UNTRACK = 0.03
#: From a pod's failure to the next pod, doubled each time (the limit is the controller's own, not
#: recorded).
POD_BACK_OFF, POD_BACK_OFF_LIMIT = 10.0, 600.0
#: From a pod that was refused to the next try, doubled each time (the controller's own, not
#: recorded).
REFUSED_BACK_OFF, REFUSED_BACK_OFF_LIMIT = 1.0, 60.0

# The garbage collector.
#: From an owner's deletion to that of what it owned.
COLLECT = 0.02

# The scheduler.
#: From a new pod, or from room that appears, to the binding; from a change of the nodes to the next
#: look at all that wait.
SCHEDULE, RESCHEDULE = 0.012, 0.1

# The node controller.
#: From a kubelet's last word to the taint, and from the end of a node's object to that of its pods.
NODE_SILENT, NODE_ORPHANED = 43.0, 58.0

# A kubelet.
#: From a change of a pod to the reaction, and from its own start to the first status that it tells.
REACT, RESTART = 0.01, 0.5
#: From the first status to the pod's sandbox, from a container's creation to its start, and to the
#: status that says so.
SANDBOX, START, STARTED = 0.43, 0.06, 0.02
#: From a volume that could not be mounted to the next try, doubled each time (the kubelet's own,
#: not recorded).
MOUNT_RETRY, MOUNT_RETRY_LIMIT = 0.5, 122.0
#: A container that could not be made is tried again at once, then every so often; a pull waits
#: longer.
RETRY, RESYNC, PULL_RETRY, PULL_RESYNC = 0.2, 12.5, 1.0, 14.9
#: From a pull that failed to the next real one, doubled each time (the limit is the kubelet's own,
#: not recorded).
PULL_BACK_OFF, PULL_BACK_OFF_LIMIT = 10.0, 300.0
#: From a container's end to the status that says so (0 to 1 were recorded), and from there to the
#: pod's terminal phase.
EXITED, TERMINAL = 0.4, 1.1
#: Once the pod is being ended both are told at once, and the object goes a little later.
EXITED_ENDING, REMOVED = 0.1, 0.8
#: A pod whose containers never ran: its sandbox goes, then it is told that they cannot be found.
SANDBOX_GONE, NEVER_FOUND = 0.18, 0.95
