{{/* All names and labels. */}}

{{- define "gpuqueue.name" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end }}

{{- define "gpuqueue.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 30 | trimSuffix "-" -}}
{{- else if contains (include "gpuqueue.name" .) .Release.Name -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "gpuqueue.name" .) | trunc 30 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* (list . "flower"): the name of one part. The name of a Deployment has at most 63 characters, suffixes of its pods included. */}}
{{- define "gpuqueue.part" -}}
{{- printf "%s-%s" (include "gpuqueue.fullname" (first .)) (last .) -}}
{{- end }}

{{- define "gpuqueue.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "gpuqueue.part" (list . "job-launcher")) -}}
{{- end }}

{{/* Not empty if a class has domain "node" and no list of its nodes: its dispatchers list the nodes of the cluster. */}}
{{- define "gpuqueue.listsNodes" -}}
{{- range $each := .Values.dispatchers }}
{{- $dispatcher := include "gpuqueue.dispatcher" (list $ $each) | fromJson }}
{{- $domain := get $dispatcher.settings "T4_DOMAIN" | default (get $.Values.settings "T4_DOMAIN") }}
{{- if and (eq (toString $domain) "node") (or $dispatcher.t4.sharedSlots $dispatcher.t4.exclusiveSlots) }}T4{{ end }}
{{- range regexSplit "(?m)^\\s*\\[" $dispatcher.classes -1 }}
{{- if and (regexMatch "(?m)^\\s*domain\\s*=\\s*[\"']node[\"']" .) (not (regexMatch "(?m)^\\s*nodes\\s*=" .)) }}class{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "gpuqueue.jobNamespace" -}}
{{- .Values.jobs.namespace | default .Release.Namespace -}}
{{- end }}

{{/* All namespaces of Jobs as a JSON list: that of dispatchers, then those of classes. */}}
{{- define "gpuqueue.jobNamespaces" -}}
{{- concat (list (include "gpuqueue.jobNamespace" .)) .Values.jobs.classNamespaces | uniq | toJson -}}
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

{{/* The Secret with the Redis address for Flower alone. */}}
{{- define "gpuqueue.flowerRedisSecret" -}}
{{- .Values.redis.flowerSecret | default (include "gpuqueue.redisSecret" .) -}}
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
app.kubernetes.io/name: {{ include "gpuqueue.name" (first .) }}
app.kubernetes.io/instance: {{ (first .).Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* (list . "flower") or (list . "flower" labels): the labels of the objects of one component. Only executors may have managed-by: gpuqueue. */}}
{{- define "gpuqueue.labels" -}}
{{- $root := first . }}
{{- $labels := dict
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version)
}}
{{- $more := dict }}
{{- if gt (len .) 2 }}{{ $more = last . }}{{ end }}
{{- mergeOverwrite (deepCopy ($root.Values.commonLabels | default dict)) (include "gpuqueue.selector" (list $root (index . 1)) | fromYaml) $labels (deepCopy ($more | default dict)) | toYaml }}
{{- end }}

{{/* (list . "flower") or (list . "flower" labels): the labels of the pods of one component. */}}
{{- define "gpuqueue.podLabels" -}}
{{- $root := first . }}
{{- $more := dict }}
{{- if gt (len .) 2 }}{{ $more = last . }}{{ end }}
{{- mergeOverwrite (deepCopy ($root.Values.commonLabels | default dict)) (deepCopy ($more | default dict)) (include "gpuqueue.selector" (list $root (index . 1)) | fromYaml) | toYaml }}
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
