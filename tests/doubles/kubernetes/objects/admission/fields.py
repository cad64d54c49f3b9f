"""The fields of a Job and of a Pod, and of every type below them.

A line has the name of a type and its fields, ``name:type``. The type of a field is ``i`` (integer),
``b`` (boolean), ``q`` (quantity), ``o`` (any value), the name of another line, ``[t]`` (list) or
``{t}`` (map from strings); without a type the field is a string. Fields that GPU Jobs never have
(volumes of one vendor, alpha fields) accept any value.
"""

TYPES = """
Affinity nodeAffinity:NodeAffinity podAffinity:PodAffinity podAntiAffinity:PodAntiAffinity
Capabilities add:[s] drop:[s]
ConfigMapEnvSource name optional:b
ConfigMapKeySelector key name optional:b
ConfigMapProjection items:[KeyToPath] name optional:b
ConfigMapVolumeSource defaultMode:i defaultUser:i items:[KeyToPath] name optional:b
Container args:[s] command:[s] env:[EnvVar] envFrom:[EnvFromSource] image imagePullPolicy
    lifecycle:Lifecycle livenessProbe:Probe name ports:[ContainerPort] readinessProbe:Probe
    resizePolicy:[ContainerResizePolicy] resources:ResourceRequirements restartPolicy
    restartPolicyRules:[ContainerRestartRule] securityContext:SecurityContext startupProbe:Probe
    stdin:b stdinOnce:b terminationMessagePath terminationMessagePolicy tty:b
    volumeDevices:[VolumeDevice] volumeMounts:[VolumeMount] workingDir
ContainerPort containerPort:i hostIP hostPort:i name protocol
ContainerResizePolicy resourceName restartPolicy
ContainerRestartRule action exitCodes:ContainerRestartRuleOnExitCodes
ContainerRestartRuleOnExitCodes operator values:[i]
CoreV1ResourceClaim name request
DownwardAPIProjection items:[DownwardAPIVolumeFile]
DownwardAPIVolumeFile fieldRef:ObjectFieldSelector mode:i path resourceFieldRef:o user:i
DownwardAPIVolumeSource defaultMode:i defaultUser:i items:[DownwardAPIVolumeFile]
EmptyDirVolumeSource medium mode:i sizeLimit:q
EnvFromSource configMapRef:ConfigMapEnvSource prefix secretRef:SecretEnvSource
EnvVar name value valueFrom:EnvVarSource
EnvVarSource configMapKeyRef:ConfigMapKeySelector fieldRef:ObjectFieldSelector fileKeyRef:o
    resourceFieldRef:o secretKeyRef:SecretKeySelector
ExecAction command:[s]
HTTPGetAction host httpHeaders:[HTTPHeader] path port:o protocol scheme
HTTPHeader name value
HostAlias hostnames:[s] ip
HostPathVolumeSource path type
Job apiVersion kind metadata:ObjectMeta spec:JobSpec status:o
JobSpec activeDeadlineSeconds:i backoffLimit:i backoffLimitPerIndex:i completionMode completions:i
    managedBy manualSelector:b maxFailedIndexes:i parallelism:i podFailurePolicy:PodFailurePolicy
    podReplacementPolicy scheduling:o selector:LabelSelector successPolicy:o suspend:b
    template:PodTemplateSpec ttlSecondsAfterFinished:i
KeyToPath key mode:i path user:i
LabelSelector matchExpressions:[LabelSelectorRequirement] matchLabels:{s}
LabelSelectorRequirement key operator values:[s]
Lifecycle postStart:LifecycleHandler preStop:LifecycleHandler stopSignal
LifecycleHandler exec:ExecAction httpGet:HTTPGetAction sleep:SleepAction tcpSocket:TCPSocketAction
LocalObjectReference name
NodeAffinity preferredDuringSchedulingIgnoredDuringExecution:[PreferredSchedulingTerm]
    requiredDuringSchedulingIgnoredDuringExecution:NodeSelector
NodeSelector nodeSelectorTerms:[NodeSelectorTerm]
NodeSelectorRequirement key operator values:[s]
NodeSelectorTerm matchExpressions:[NodeSelectorRequirement] matchFields:[NodeSelectorRequirement]
ObjectFieldSelector apiVersion fieldPath
ObjectMeta annotations:{s} creationTimestamp deletionGracePeriodSeconds:i deletionTimestamp
    finalizers:[s] generateName generation:i labels:{s} managedFields:[o] name namespace
    ownerReferences:[OwnerReference] resourceVersion selfLink uid
OwnerReference apiVersion blockOwnerDeletion:b controller:b kind name uid
PersistentVolumeClaimVolumeSource claimName readOnly:b
Pod apiVersion kind metadata:ObjectMeta spec:PodSpec status:o
PodAffinity preferredDuringSchedulingIgnoredDuringExecution:[WeightedPodAffinityTerm]
    requiredDuringSchedulingIgnoredDuringExecution:[PodAffinityTerm]
PodAffinityTerm labelSelector:LabelSelector matchLabelKeys:[s] mismatchLabelKeys:[s]
    namespaceSelector:LabelSelector namespaces:[s] topologyKey
PodAntiAffinity preferredDuringSchedulingIgnoredDuringExecution:[WeightedPodAffinityTerm]
    requiredDuringSchedulingIgnoredDuringExecution:[PodAffinityTerm]
PodFailurePolicy rules:[PodFailurePolicyRule]
PodFailurePolicyOnExitCodesRequirement containerName operator values:[i]
PodFailurePolicyOnPodConditionsPattern status type
PodFailurePolicyRule action onExitCodes:PodFailurePolicyOnExitCodesRequirement
    onPodConditions:[PodFailurePolicyOnPodConditionsPattern]
PodOS name
PodReadinessGate conditionType
PodSchedulingGate name
PodSecurityContext appArmorProfile:o fsGroup:i fsGroupChangePolicy runAsGroup:i runAsNonRoot:b
    runAsUser:i seLinuxChangePolicy seLinuxOptions:o seccompProfile:SeccompProfile
    supplementalGroups:[i] supplementalGroupsPolicy sysctls:[Sysctl] windowsOptions:o
PodSpec activeDeadlineSeconds:i affinity:Affinity automountServiceAccountToken:b
    containers:[Container] dnsConfig:o dnsPolicy enableServiceLinks:b ephemeralContainers:[o]
    evictionResponders:[o] hostAliases:[HostAlias] hostIPC:b hostNetwork:b hostPID:b hostUsers:b
    hostname hostnameOverride imagePullSecrets:[LocalObjectReference] initContainers:[Container]
    nodeName nodeSelector:{s} os:PodOS overhead:{s} preemptionPolicy priority:i priorityClassName
    readinessGates:[PodReadinessGate] resourceClaims:[o] resources:ResourceRequirements
    restartPolicy runtimeClassName schedulerName schedulingGates:[PodSchedulingGate]
    schedulingGroup:o securityContext:PodSecurityContext serviceAccount serviceAccountName
    setHostnameAsFQDN:b shareProcessNamespace:b subdomain terminationGracePeriodSeconds:i
    tolerations:[Toleration] topologySpreadConstraints:[o] volumes:[Volume]
PodTemplateSpec metadata:ObjectMeta spec:PodSpec
PreferredSchedulingTerm preference:NodeSelectorTerm weight:i
Probe exec:ExecAction failureThreshold:i grpc:o httpGet:HTTPGetAction initialDelaySeconds:i
    periodSeconds:i successThreshold:i tcpSocket:TCPSocketAction terminationGracePeriodSeconds:i
    timeoutSeconds:i
ProjectedVolumeSource defaultMode:i defaultUser:i sources:[VolumeProjection]
ResourceRequirements claims:[CoreV1ResourceClaim] limits:{q} requests:{q}
SeccompProfile localhostProfile type
SecretEnvSource name optional:b
SecretKeySelector key name optional:b
SecretProjection items:[KeyToPath] name optional:b
SecretVolumeSource defaultMode:i defaultUser:i items:[KeyToPath] optional:b secretName
SecurityContext allowPrivilegeEscalation:b appArmorProfile:o capabilities:Capabilities privileged:b
    procMount readOnlyRootFilesystem:b runAsGroup:i runAsNonRoot:b runAsUser:i seLinuxOptions:o
    seccompProfile:SeccompProfile windowsOptions:o
ServiceAccountTokenProjection audience expirationSeconds:i path user:i
SleepAction seconds:i
Sysctl name value
TCPSocketAction host port:o
Toleration effect key operator tolerationSeconds:i value
Volume awsElasticBlockStore:o azureDisk:o azureFile:o cephfs:o cinder:o
    configMap:ConfigMapVolumeSource csi:o downwardAPI:DownwardAPIVolumeSource
    emptyDir:EmptyDirVolumeSource ephemeral:o fc:o flexVolume:o flocker:o gcePersistentDisk:o
    gitRepo:o glusterfs:o hostPath:HostPathVolumeSource image:o iscsi:o name nfs:o
    persistentVolumeClaim:PersistentVolumeClaimVolumeSource photonPersistentDisk:o portworxVolume:o
    projected:ProjectedVolumeSource quobyte:o rbd:o scaleIO:o secret:SecretVolumeSource storageos:o
    vsphereVolume:o
VolumeDevice devicePath name
VolumeMount bindMountOptions:[s] mountPath mountPropagation name readOnly:b recursiveReadOnly
    subPath subPathExpr
VolumeProjection clusterTrustBundle:o configMap:ConfigMapProjection
    downwardAPI:DownwardAPIProjection podCertificate:o secret:SecretProjection
    serviceAccountToken:ServiceAccountTokenProjection
WeightedPodAffinityTerm podAffinityTerm:PodAffinityTerm weight:i
"""
