{{/* What tells the series of this release's dispatchers from others': the labels that a ServiceMonitor gives. */}}
{{- define "gpuqueue.series" -}}
namespace="{{ .Release.Namespace }}",job="{{ include "gpuqueue.part" (list . "dispatchers") }}"
{{- end }}

{{/* (list . "t4"): the alert for a dispatcher that nobody hears of. */}}
{{- define "gpuqueue.absence" -}}
alert: GpuqueueDispatcherAbsent
expr: absent(up{ {{- include "gpuqueue.series" (first .) }},gpuqueue_io_dispatcher="{{ last . }}"} == 1)
for: 5m
labels: {severity: critical, dispatcher: {{ last . | quote }}}
annotations:
  summary: No dispatcher {{ last . }} answers Prometheus
  description: >-
    What is sent to its queues stays in the broker; jobs that run go on. See whether its pods run (`kubectl get pods -l
    gpuqueue.io/dispatcher={{ last . }}`), why they do not, and whether Prometheus may reach their port.
{{- end }}

{{/* (list . dispatcher): the messages of its queues that nobody has taken yet. All dispatchers say the same: largest, not sum. */}}
{{- define "gpuqueue.untaken" -}}
{{- $dispatcher := last . }}
{{- $which := printf "gpuqueue_io_dispatcher=%q" $dispatcher.name }}
{{- if $dispatcher.queues }}
{{- $names := list }}
{{- range $dispatcher.queues }}{{ $names = append $names (regexQuoteMeta .) }}{{ end }}
{{- $which = printf "queue=~%q" (join "|" $names) }}
{{- end -}}
sum(max by (queue) (gpuqueue_untaken_messages{ {{- include "gpuqueue.series" (first .) }},{{ $which }}}))
{{- end }}
