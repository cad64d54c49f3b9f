{{/* The labels that select the series of this release: the ServiceMonitor adds them. */}}
{{- define "gpuqueue.series" -}}
namespace="{{ .Release.Namespace }}",job="{{ include "gpuqueue.part" (list . "dispatchers") }}"
{{- end }}

{{/* (list . "t4"): the alert for a dispatcher without metrics. */}}
{{- define "gpuqueue.absence" -}}
alert: GpuqueueDispatcherAbsent
expr: absent(up{ {{- include "gpuqueue.series" (first .) }},gpuqueue_io_dispatcher="{{ last . }}"} == 1)
for: 5m
labels: {severity: critical, dispatcher: {{ last . | quote }}}
annotations:
  summary: No dispatcher {{ last . }} answers Prometheus
  description: >-
    Messages for its queues stay in the broker; running jobs continue. Check whether its pods run
    (`kubectl get pods -l gpuqueue.io/dispatcher={{ last . }}`), and whether Prometheus can reach
    their port.
{{- end }}

{{/* (list . dispatcher): the untaken messages of its queues. All dispatchers report the same values: maximum, not sum. */}}
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
