{{/* Egress that dispatchers, executors and Flower share. An empty list of peers allows all peers. */}}

{{- define "gpuqueue.egress.dns" -}}
- ports:
    - {protocol: UDP, port: {{ .Values.network.dns.port }}}
    - {protocol: TCP, port: {{ .Values.network.dns.port }}}
  {{- with .Values.network.dns.to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "gpuqueue.egress.redis" -}}
- ports:
    {{- range .Values.redis.builtin.enabled | ternary (list 6379) .Values.network.redis.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- if .Values.redis.builtin.enabled }}
  to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: {{ .Release.Namespace }}}}
      podSelector:
        matchLabels: {{- include "gpuqueue.selector" (list . "redis") | nindent 10 }}
  {{- else }}
  {{- with .Values.network.redis.to }}
  to: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
{{- end }}
