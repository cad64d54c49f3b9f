{{/* Parts that the pods of several components share. */}}

{{/* (list . secret): the Redis addresses, each by its key: other keys of the Secret do not become variables. */}}
{{- define "gpuqueue.redisEnv" -}}
{{- $secret := last . }}
{{- range $key, $optional := dict "CELERY_BROKER_URL" false "CELERY_RESULT_BACKEND" true "GPUQUEUE_REDIS_URL" true "GPUQUEUE_BROKER_TRANSPORT_OPTIONS" true "GPUQUEUE_RESULT_BACKEND_TRANSPORT_OPTIONS" true }}
- name: {{ $key }}
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ $key }}, optional: {{ $optional }}}}
{{- end }}
{{- end }}

{{- define "gpuqueue.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- include "gpuqueue.caVolume" . }}
{{- end }}

{{- define "gpuqueue.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- include "gpuqueue.caMount" . }}
{{- end }}

{{- define "gpuqueue.caVolume" -}}
{{- with .Values.redis.ca }}
{{- if .configMap }}
- name: redis-ca
  configMap:
    name: {{ .configMap }}
    items: [{key: {{ .key | quote }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- end }}

{{- define "gpuqueue.caMount" -}}
{{- if .Values.redis.ca.configMap }}
- name: redis-ca
  mountPath: /etc/gpuqueue/redis-ca
  readOnly: true
{{- end }}
{{- end }}

{{- define "gpuqueue.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
