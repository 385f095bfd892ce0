{{- define "cai-operator.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "cai-operator.fullname" -}}
{{- $name := include "cai-operator.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "cai-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "cai-operator.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end }}

{{- define "cai-operator.selector" -}}
app.kubernetes.io/name: {{ include "cai-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* The labels of an object: (dict "root" .), and "labels" of its own; those it is found by cannot be changed */ -}}
{{- define "cai-operator.labels" -}}
{{- $chart := printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- $ours := include "cai-operator.selector" .root | fromYaml -}}
{{- $_ := set $ours "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $ours "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $ours "helm.sh/chart" $chart -}}
{{ toYaml (merge $ours (.labels | default dict) .root.Values.commonLabels) }}
{{- end }}

{{- /* name, labels, annotations: (dict "root" . "name" "..."), and "labels" and "annotations" of its own */ -}}
{{- define "cai-operator.metadata" -}}
name: {{ .name }}
labels:
  {{- include "cai-operator.labels" . | nindent 2 }}
{{- with merge dict (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* registry/repository@digest, or :tag: (list . image) */ -}}
{{- define "cai-operator.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.imageRegistry }}{{ trimSuffix "/" . }}/{{ end -}}
{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag }}{{ end }}
{{- end }}

{{- define "cai-operator.lease" -}}
{{ .Values.settings.leaseName | default (include "cai-operator.fullname" .) }}
{{- end }}

{{- define "cai-operator.metrics" -}}
{{- if .Values.metrics.enabled }}yes{{ end -}}
{{- end }}

{{- define "cai-operator.testNamespace" -}}
{{ .Values.tests.namespace | default (first (append .Values.watchNamespaces .Release.Namespace)) }}
{{- end }}

{{- /* What every container of this chart may do: nothing but run. */ -}}
{{- define "cai-operator.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "cai-operator.podSecurity" -}}
runAsNonRoot: true
{{- if ne (toString .Values.settings.runAsUser) "none" }}
runAsUser: {{ int64 .Values.settings.runAsUser }}
runAsGroup: {{ int64 .Values.settings.runAsUser }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* A number as text: Helm reads whole ones as floats, and would write a million as 1e+06. */ -}}
{{- define "cai-operator.number" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{- define "cai-operator.enginePullSecrets" -}}
{{- $names := list -}}
{{- range .Values.engines.imagePullSecrets }}{{ $names = append $names .name }}{{ end -}}
{{ join "," $names }}
{{- end }}

{{- define "cai-operator.judgeSecret" -}}
{{- with .Values.judge.secret }}{{ if .name }}{{ .name }}:{{ .key }}{{ end }}{{ end -}}
{{- end }}
