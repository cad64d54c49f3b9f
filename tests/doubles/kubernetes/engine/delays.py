"""The delays of a real cluster in seconds.

They were measured in the recordings, except those marked as constants of Kubernetes.
"""

# Job controller
#: From a change of a Job, or of its pods, to the sync of the Job. The controller batches changes of
#: pods.
JOB_AT_ONCE, JOB_BATCH = 0.01, 1.0
#: From the deletion of a Job to the removal of the tracking finalizers of its pods.
JOB_UNTRACK = 0.03
#: From the failure of a pod to the next pod, doubled each time (limit: a constant of Kubernetes).
POD_BACK_OFF, POD_BACK_OFF_LIMIT = 10.0, 600.0
#: From the refusal of a pod to the next attempt, doubled each time (constants of Kubernetes).
REFUSED_BACK_OFF, REFUSED_BACK_OFF_LIMIT = 1.0, 60.0

# Garbage collector
#: From the deletion of an owner to the deletion of its objects.
COLLECT = 0.02

# Scheduler
#: From a new pod or freed resources to the binding, and from a change of nodes to the next round.
SCHEDULE, RESCHEDULE = 0.012, 0.1

# Node controller
#: From the last report of a kubelet to the taint, and from the deletion of a Node object to the
#: deletion of its pods.
NODE_SILENT, NODE_ORPHANED = 43.0, 58.0

# Kubelet
#: From a change of a pod to the reaction, and from the kubelet's start to its first report.
REACT, RESTART = 0.01, 0.5
#: From the first status to the sandbox of the pod, from the creation of a container to its start,
#: and from there to the status that reports it.
SANDBOX, START, STARTED = 0.43, 0.06, 0.02
#: From a failed mount of a volume to the next attempt, doubled each time (constants of Kubernetes).
MOUNT_RETRY, MOUNT_RETRY_LIMIT = 0.5, 122.0
#: From a failed start of a container to the next attempt, first and later; the same for pulls.
RETRY, RESYNC, PULL_RETRY, PULL_RESYNC = 0.2, 12.5, 1.0, 14.9
#: From a failed pull to the next real one, doubled each time (limit: a constant of Kubernetes).
PULL_BACK_OFF, PULL_BACK_OFF_LIMIT = 10.0, 300.0
#: From the end of a container to the status that reports it (0 to 1 were recorded), and from there
#: to the terminal phase of the pod.
EXITED, TERMINAL = 0.4, 1.1
#: In a pod that is terminating: from the end of a container to the status with the terminal phase,
#: and from there to the removal of the object.
EXITED_ENDING, REMOVED = 0.1, 0.8
#: In a terminating pod whose containers never ran: until its sandbox is gone, and until its status
#: reports the containers as lost.
SANDBOX_GONE, NEVER_FOUND = 0.18, 0.95
