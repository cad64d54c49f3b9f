{{/* (list . each): a dispatcher, with defaults for missing values. */}}
{{- define "gpuqueue.dispatcher" -}}
{{- mergeOverwrite (deepCopy (first .).Values.dispatcherDefaults) (deepCopy (last .)) | toJson -}}
{{- end }}

{{/* (list . dispatcher): how its pods are spread. A constraint without a selector would count none. */}}
{{- define "gpuqueue.spread" -}}
{{- $dispatcher := last . }}
{{- $labels := set (include "gpuqueue.selector" (list (first .) "dispatcher") | fromYaml) "gpuqueue.io/dispatcher" $dispatcher.name }}
{{- $byNode := dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway" }}
{{- $all := list }}
{{- range $dispatcher.topologySpreadConstraints | default (list $byNode) }}
{{- $all = append $all (hasKey . "labelSelector" | ternary . (set (deepCopy .) "labelSelector" (dict "matchLabels" $labels))) }}
{{- end }}
{{- $all | toYaml }}
{{- end }}

{{/* The settings of all dispatchers, name to text. */}}
{{- define "gpuqueue.settings" -}}
{{- $jobs := .Values.jobs }}
{{- $settings := dict
  "GPU_EXECUTION_MODE" "k8s_job"
  "GPU_JOB_NAMESPACE" $jobs.namespace
  "GPU_SECRET_NAME" (include "gpuqueue.executorSecret" .)
  "GPU_OWNER" $jobs.owner
  "GPU_EXECUTOR_IMAGE" $jobs.image
  "GPU_IMAGE_PULL_POLICY" $jobs.imagePullPolicy
  "GPU_IMAGE_ALLOW" (join "," $jobs.imageAllow)
  "GPUQUEUE_APP" $jobs.app
  "GPUQUEUE_LOG_LEVEL" .Values.logLevel
  "GPUQUEUE_METRICS_PORT" (.Values.metricsPort | toString)
  "GPUQUEUE_POD_TEMPLATE" "/etc/gpuqueue/pod/pod-template.yaml"
  "GPUQUEUE_LOG_SINK" .Values.logSink.address
  "AWS_ENDPOINT_URL_S3" .Values.logSink.endpoint
  "AWS_DEFAULT_REGION" .Values.logSink.region
}}
{{- range $name, $text := mergeOverwrite $settings .Values.settings }}
{{- if ne (toString $text) "" }}
{{ $name }}: {{ $text | toString | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* The classes and settings of one dispatcher. All slots are set explicitly, so that no default adds a class. */}}
{{- define "gpuqueue.classSettings" -}}
{{- $settings := dict
  "T4_SHARED_SLOTS" .t4.sharedSlots
  "T4_EXCLUSIVE_SLOTS" .t4.exclusiveSlots
  "MIG_TOTAL_SLOTS" .mig.totalSlots
}}
{{- if .resourceName }}{{ $settings = set $settings "GPU_RESOURCE_NAME" .resourceName }}{{ end }}
{{- if .classes }}{{ $settings = set $settings "GPUQUEUE_CLASSES_FILE" "/etc/gpuqueue/classes/classes.toml" }}{{ end }}
{{- if .tenants }}{{ $settings = set $settings "GPUQUEUE_TENANTS_FILE" "/etc/gpuqueue/tenants/tenants.toml" }}{{ end }}
{{- range $name, $text := mergeOverwrite $settings .settings }}
{{ $name }}: {{ $text | toString | quote }}
{{- end }}
{{- end }}

{{/* The pod template: the one from the values, merged with jobs.podTemplate. commonLabels are labels of every pod. */}}
{{- define "gpuqueue.podTemplate" -}}
{{- $jobs := .Values.jobs }}
{{- $theirs := deepCopy $jobs.podTemplate }}
{{- $spec := dict }}
{{- $container := dict "name" "executor" }}
{{- $volumes := include "gpuqueue.caVolume" . | fromYamlArray }}
{{- $mounts := include "gpuqueue.caMount" . | fromYamlArray }}
{{- $env := list }}
{{- if $jobs.serviceAccount }}{{ $spec = set $spec "serviceAccountName" (include "gpuqueue.part" (list . "executor")) }}{{ end }}
{{- if $jobs.imagePullSecrets }}
{{- $secrets := list }}
{{- range $jobs.imagePullSecrets }}{{ $secrets = append $secrets (dict "name" .) }}{{ end }}
{{- $spec = set $spec "imagePullSecrets" $secrets }}
{{- end }}
{{- if $jobs.readOnlyRootFilesystem }}
{{- $container = set $container "securityContext" (dict "readOnlyRootFilesystem" true) }}
{{- $volumes = prepend $volumes (dict "name" "tmp" "emptyDir" (dict "sizeLimit" $jobs.tmpSize)) }}
{{- $mounts = prepend $mounts (dict "name" "tmp" "mountPath" "/tmp") }}
{{- $env = append $env (dict "name" "HOME" "value" "/tmp") }}
{{- end }}
{{- $given := dict }}
{{- $theirSpec := $theirs.spec | default dict }}
{{- range $theirSpec.containers }}{{ $given = . }}{{ end }}
{{- $volumes = concat $volumes ($theirSpec.volumes | default list) }}
{{- $mounts = concat $mounts ($given.volumeMounts | default list) }}
{{- $env = concat $env ($given.env | default list) }}
{{- $container = mergeOverwrite $container $given }}
{{- if $mounts }}{{ $container = set $container "volumeMounts" $mounts }}{{ end }}
{{- if $env }}{{ $container = set $container "env" $env }}{{ end }}
{{- $spec = mergeOverwrite $spec $theirSpec }}
{{- if $volumes }}{{ $spec = set $spec "volumes" $volumes }}{{ end }}
{{- if gt (len $container) 1 }}{{ $spec = set $spec "containers" (list $container) }}{{ end }}
{{- if .Values.commonLabels }}
{{- $metadata := $theirs.metadata | default dict }}
{{- $theirs = set $theirs "metadata" (set $metadata "labels" (mergeOverwrite (deepCopy .Values.commonLabels) ($metadata.labels | default dict))) }}
{{- end }}
{{- mergeOverwrite $theirs (dict "spec" $spec) | toYaml }}
{{- end }}
