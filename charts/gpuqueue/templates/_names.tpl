{{/* All names and labels. */}}

{{- define "gpuqueue.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 30 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 30 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* (list . "flower"): the name of one part. The name of a Deployment has at most 63 characters, suffixes of its pods included. */}}
{{- define "gpuqueue.part" -}}
{{- printf "%s-%s" (include "gpuqueue.fullname" (first .)) (last .) -}}
{{- end }}

{{- define "gpuqueue.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "gpuqueue.part" (list . "job-launcher")) -}}
{{- end }}

{{- define "gpuqueue.jobNamespace" -}}
{{- .Values.jobs.namespace | default .Release.Namespace -}}
{{- end }}

{{/* The Secret with the Redis address for dispatchers and Flower. */}}
{{- define "gpuqueue.redisSecret" -}}
{{- .Values.redis.existingSecret | default (include "gpuqueue.part" (list . "redis")) -}}
{{- end }}

{{/* The same for executors, in the namespace of the Jobs. */}}
{{- define "gpuqueue.executorSecret" -}}
{{- .Values.redis.executorSecret | default (include "gpuqueue.redisSecret" .) -}}
{{- end }}

{{- define "gpuqueue.redisUrl" -}}
{{- if .Values.redis.builtin.enabled -}}
redis://:{{ .Values.redis.builtin.password }}@{{ include "gpuqueue.part" (list . "redis") }}.{{ .Release.Namespace }}.svc:6379/0
{{- else -}}
{{- .Values.redis.url -}}
{{- end -}}
{{- end }}

{{- define "gpuqueue.flowerSecret" -}}
{{- .Values.flower.auth.existingSecret | default (include "gpuqueue.part" (list . "flower")) -}}
{{- end }}

{{- define "gpuqueue.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/* (list . "flower"): the selector labels of one component. */}}
{{- define "gpuqueue.selector" -}}
app.kubernetes.io/name: {{ (first .).Chart.Name }}
app.kubernetes.io/instance: {{ (first .).Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* The labels of the objects of one component. Only executors may have managed-by: gpuqueue. */}}
{{- define "gpuqueue.labels" -}}
{{ include "gpuqueue.selector" . }}
app.kubernetes.io/version: {{ (first .).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (first .).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (first .).Chart.Name (first .).Chart.Version }}
{{- end }}

{{/* The labels of the pods of Jobs: only those of this queue, if jobs.owner is set. */}}
{{- define "gpuqueue.jobSelector" -}}
app.kubernetes.io/managed-by: gpuqueue
{{- with .Values.jobs.owner }}
gpuqueue.io/owner: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The selector for pods of Jobs that may connect to Redis: attempts and finishers, but not container jobs. */}}
{{- define "gpuqueue.executorSelector" -}}
matchLabels: {{- include "gpuqueue.jobSelector" . | nindent 2 }}
matchExpressions:
  - {key: gpuqueue.io/role, operator: NotIn, values: [container]}
{{- end }}
