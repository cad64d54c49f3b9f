{{/* Combinations of values that are invalid. All problems are reported at once, each with its path, its value and the fix. */}}
{{- define "gpuqueue.checks" -}}
{{- $problems := concat (include "gpuqueue.checks.redis" . | fromJsonArray) (include "gpuqueue.checks.images" . | fromJsonArray) (include "gpuqueue.checks.dispatchers" . | fromJsonArray) (include "gpuqueue.checks.rest" . | fromJsonArray) }}
{{- if $problems }}
{{- fail (printf "\n\ngpuqueue: these values are invalid:\n- %s\n" (join "\n- " $problems)) }}
{{- end }}
{{- end }}

{{- define "gpuqueue.checks.redis" -}}
{{- $problems := list }}
{{- $redis := .Values.redis }}
{{- $sources := list }}
{{- if $redis.existingSecret }}{{ $sources = append $sources "redis.existingSecret" }}{{ end }}
{{- if $redis.url }}{{ $sources = append $sources "redis.url" }}{{ end }}
{{- if $redis.builtin.enabled }}{{ $sources = append $sources "redis.builtin.enabled" }}{{ end }}
{{- if not $sources }}
{{- $problems = append $problems "redis has no address; set redis.existingSecret to a Secret with CELERY_BROKER_URL (for trials: redis.url or redis.builtin.enabled)" }}
{{- else if gt (len $sources) 1 }}
{{- $problems = append $problems (printf "redis has several addresses (%s); keep one" (join ", " $sources)) }}
{{- end }}
{{- if and $redis.builtin.enabled (not (regexMatch "^[A-Za-z0-9_-]{16,}$" $redis.builtin.password)) }}
{{- $problems = append $problems "redis.builtin.password is invalid; set it to 16 or more letters, digits, '-' and '_'" }}
{{- end }}
{{- $problems | toJson }}
{{- end }}

{{- define "gpuqueue.checks.images" -}}
{{- $problems := list }}
{{- if and (eq .Values.image.tag "latest") (not .Values.image.digest) }}
{{- $problems = append $problems "image.tag=latest does not identify a version; name one, or leave it empty for the version of the chart" }}
{{- end }}
{{- range $path, $image := dict "jobs.image" .Values.jobs.image "redis.builtin.image" .Values.redis.builtin.image }}
{{- if and $image (not (contains "@" $image)) (or (hasSuffix ":latest" $image) (not (contains ":" (last (splitList "/" $image))))) }}
{{- $problems = append $problems (printf "%s=%s does not identify a version; use a digest, or a tag other than latest" $path $image) }}
{{- else if and (contains "@" $image) (not (regexMatch "@sha256:[0-9a-f]{64}$" $image)) }}
{{- $problems = append $problems (printf "%s=%s has an invalid digest; use NAME@sha256: and 64 hexadecimal digits" $path $image) }}
{{- end }}
{{- end }}
{{- $problems | toJson }}
{{- end }}

{{- define "gpuqueue.checks.dispatchers" -}}
{{- $problems := list }}
{{- $names := list }}
{{- if not .Values.dispatchers }}
{{- $problems = append $problems "dispatchers is empty; add one, with its slots" }}
{{- end }}
{{- range $index, $each := .Values.dispatchers }}
{{- $dispatcher := include "gpuqueue.dispatcher" (list $ $each) | fromJson }}
{{- $at := printf "dispatchers[%d] (%s)" $index $each.name }}
{{- $mig := $dispatcher.mig.totalSlots }}
{{- $resource := $dispatcher.resourceName }}
{{- $isMig := regexMatch "/mig-[1-7]g\\.[0-9]+gb((\\.(me|gfx|me\\.all))|-me)?$" $resource }}
{{- if has $each.name $names }}
{{- $problems = append $problems (printf "%s has the name of another dispatcher; use unique names" $at) }}
{{- end }}
{{- $names = append $names $each.name }}
{{- if not (or $dispatcher.t4.sharedSlots $dispatcher.t4.exclusiveSlots $mig $dispatcher.classes) }}
{{- $problems = append $problems (printf "%s has no slots; set t4.sharedSlots, t4.exclusiveSlots or mig.totalSlots, or classes" $at) }}
{{- end }}
{{- if and $mig (not $isMig) }}
{{- $problems = append $problems (printf "%s: mig.totalSlots=%v needs a MIG resource, and resourceName=%q is not one; set it to e.g. nvidia.com/mig-1g.5gb" $at $mig $resource) }}
{{- end }}
{{- if and $isMig (not $mig) }}
{{- $problems = append $problems (printf "%s: resourceName=%s is a MIG resource without slots; set mig.totalSlots" $at $resource) }}
{{- end }}
{{- if not (or $.Values.jobs.image $dispatcher.classes) }}
{{- $problems = append $problems (printf "%s has no image for its jobs; set jobs.image, or image of each class in classes" $at) }}
{{- end }}
{{- range regexFindAll "(?m)^\\s*namespace\\s*=\\s*[\"'][^\"'#]*[\"']" ($dispatcher.classes | default "") -1 }}
{{- $named := regexReplaceAll "^\\s*namespace\\s*=\\s*[\"']|[\"']$" . "" }}
{{- if not (has $named (include "gpuqueue.jobNamespaces" $ | fromJsonArray)) }}
{{- $problems = append $problems (printf "%s: classes have namespace=%q, where dispatchers get no rights; add it to jobs.classNamespaces" $at $named) }}
{{- end }}
{{- end }}
{{- $scaling := $dispatcher.autoscaling }}
{{- if and (ne $scaling.kind "none") (gt (int $scaling.minReplicas) (int $scaling.maxReplicas)) }}
{{- $problems = append $problems (printf "%s: autoscaling.minReplicas=%v is more than maxReplicas=%v; swap them" $at $scaling.minReplicas $scaling.maxReplicas) }}
{{- end }}
{{- if and (eq $scaling.kind "hpa") (not (dig "requests" "cpu" "" $dispatcher.resources)) }}
{{- $problems = append $problems (printf "%s: autoscaling.kind=hpa measures the use of the requested CPU; set resources.requests.cpu" $at) }}
{{- end }}
{{- if eq $scaling.kind "keda" }}
{{- if and (eq $scaling.keda.trigger "redis") (not $scaling.keda.address) }}
{{- $problems = append $problems (printf "%s: autoscaling.keda.address is not set; set it to the broker's host:port" $at) }}
{{- end }}
{{- if and (eq $scaling.keda.trigger "redis") (not $dispatcher.queues) }}
{{- $problems = append $problems (printf "%s: autoscaling by queue length needs queues; set queues" $at) }}
{{- end }}
{{- if and (eq $scaling.keda.trigger "prometheus") (not $scaling.keda.serverAddress) }}
{{- $problems = append $problems (printf "%s: autoscaling.keda.serverAddress is not set; set it to the address of Prometheus, e.g. http://prometheus.monitoring:9090" $at) }}
{{- end }}
{{- if and (eq $scaling.keda.trigger "prometheus") (not (or $scaling.keda.query $.Values.monitoring.serviceMonitor.enabled)) }}
{{- $problems = append $problems (printf "%s: autoscaling.keda.query is empty, and the default query needs the labels of a ServiceMonitor; set monitoring.serviceMonitor.enabled, or a query" $at) }}
{{- end }}
{{- end }}
{{- end }}
{{- $problems | toJson }}
{{- end }}

{{- define "gpuqueue.checks.rest" -}}
{{- $problems := list }}
{{- $flower := .Values.flower }}
{{- if $flower.enabled }}
{{- if not (or $flower.auth.existingSecret $flower.auth.basic) }}
{{- $problems = append $problems "flower.enabled without authentication: any client could revoke jobs; set flower.auth.existingSecret (for trials: flower.auth.basic)" }}
{{- else if and $flower.auth.existingSecret $flower.auth.basic }}
{{- $problems = append $problems "flower.auth has both existingSecret and basic; keep one" }}
{{- else if and $flower.auth.basic (not (regexMatch "^[^:,]+:[^,]{8,}$" $flower.auth.basic)) }}
{{- $problems = append $problems "flower.auth.basic is not user:password; use a password of 8 or more characters" }}
{{- end }}
{{- if and $flower.ingress.enabled (not $flower.ingress.host) }}
{{- $problems = append $problems "flower.ingress.host is not set; set it to the public host name of Flower" }}
{{- end }}
{{- else if $flower.ingress.enabled }}
{{- $problems = append $problems "flower.ingress.enabled without Flower; set flower.enabled as well" }}
{{- end }}
{{- if and .Values.monitoring.rules.enabled (not .Values.monitoring.serviceMonitor.enabled) }}
{{- $problems = append $problems "monitoring.rules.enabled without monitoring.serviceMonitor.enabled: alerts select their series by its labels; set both" }}
{{- end }}
{{- if and .Values.monitoring.dashboard.enabled (not .Values.monitoring.dashboard.labels) }}
{{- $problems = append $problems "monitoring.dashboard.labels is empty, and the sidecar of Grafana selects dashboards by label; set e.g. grafana_dashboard: \"1\"" }}
{{- end }}
{{- $sink := .Values.logSink }}
{{- if and $sink.address (not (hasPrefix "s3://" $sink.address)) (not $sink.volume) }}
{{- $problems = append $problems (printf "logSink.address=%s is a directory without a volume; set logSink.volume, e.g. persistentVolumeClaim: {claimName: logs}" $sink.address) }}
{{- else if and $sink.volume (or (not $sink.address) (hasPrefix "s3://" $sink.address)) }}
{{- $problems = append $problems (printf "logSink.volume is for a directory, and logSink.address=%q is none; set e.g. /data/logs" $sink.address) }}
{{- end }}
{{- if and .Values.quota.enabled (not .Values.quota.hard) }}
{{- $problems = append $problems "quota.hard is empty; set e.g. requests.nvidia.com/gpu: \"8\"" }}
{{- end }}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) }}
{{- $problems = append $problems "serviceAccount.create=false needs serviceAccount.name; set it to an existing service account" }}
{{- end }}
{{- if and .Values.jobs.serviceAccountAnnotations (not .Values.jobs.serviceAccount) }}
{{- $problems = append $problems "jobs.serviceAccountAnnotations without jobs.serviceAccount: there is no service account to annotate; set jobs.serviceAccount, or annotate your own" }}
{{- end }}
{{- range $key, $text := .Values.commonLabels }}
{{- if or (hasPrefix "gpuqueue.io/" $key) (hasPrefix "helm.sh/" $key) (hasPrefix "batch.kubernetes.io/" $key) (has $key (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "job-name" "controller-uid")) }}
{{- $problems = append $problems (printf "commonLabels.%s=%s is a label that the chart or Kubernetes sets; use another key" $key $text) }}
{{- end }}
{{- end }}
{{- range $index, $each := .Values.extraObjects }}
{{- if and (kindIs "map" $each) (not (and $each.apiVersion $each.kind (dig "metadata" "name" "" $each))) }}
{{- $problems = append $problems (printf "extraObjects[%d] is no object; set apiVersion, kind and metadata.name" $index) }}
{{- end }}
{{- end }}
{{- $containers := dig "spec" "containers" list .Values.jobs.podTemplate }}
{{- if or (gt (len $containers) 1) (and $containers (ne (dig "name" "" (first $containers)) "executor")) }}
{{- $problems = append $problems "jobs.podTemplate.spec.containers can contain only the container executor; use initContainers for others" }}
{{- end }}
{{- $problems | toJson }}
{{- end }}
