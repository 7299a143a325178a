{{- define "gateway.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of this installation, and of no other. */}}
{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "gateway.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "gateway.tlsSecret" -}}
{{ .Values.tls.secret | default (printf "%s-tls" (include "gateway.fullname" .)) }}
{{- end -}}

{{- define "gateway.credentialsSecret" -}}
{{ .Values.auth.credentialsSecret | default (printf "%s-credentials" (include "gateway.fullname" .)) }}
{{- end -}}

{{- define "gateway.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What the gateway and its check run with. */}}
{{- define "gateway.container" -}}
image: {{ include "gateway.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
envFrom:
- configMapRef:
    name: {{ include "gateway.fullname" . }}
{{- with .Values.extraEnv }}
env:
{{- toYaml . | nindent 0 }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  {{- include "gateway.containerSecurityContext" . | nindent 2 }}
{{- if or .Values.tls.enabled .Values.rules (ne .Values.auth.mode "passthrough") }}
volumeMounts:
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  mountPath: /etc/backup-share-gateway/tls
  readOnly: true
{{- end }}
{{- if .Values.rules }}
- name: rules
  mountPath: /etc/backup-share-gateway/rules
  readOnly: true
{{- end }}
{{- if ne .Values.auth.mode "passthrough" }}
- name: credentials
  mountPath: /etc/backup-share-gateway/credentials
  readOnly: true
{{- end }}
{{- end -}}

{{/* A policy for the pods of this installation: a list of name suffix, policy type, peers and ports. */}}
{{- define "gateway.egressPolicy" -}}
{{- $root := index . 0 }}
{{- $peer := index . 2 -}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "gateway.fullname" $root }}-{{ index . 1 }}
  labels:
    {{- include "gateway.labels" $root | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "gateway.selector" $root | nindent 6 }}
  policyTypes: [Egress]
  egress:
  - to:
    {{- toYaml $peer.to | nindent 4 }}
    ports:
    {{- range $peer.ports }}
    - port: {{ . }}
    {{- end }}
{{ end -}}

{{/* The data of the ConfigMap: what the values of the chart mean, and `settings`. */}}
{{- define "gateway.settings" -}}
{{- $settings := dict
  "GATEWAY_LISTEN" "0.0.0.0:50051"
  "GATEWAY_ADMIN_LISTEN" "0.0.0.0:9090"
  "GATEWAY_WORKERS" "2"
  "GATEWAY_DRAIN_DELAY" "5s"
  "GATEWAY_DRAIN_TIMEOUT" "20s" }}
{{- if .Values.upstream.sandbox }}
{{- $_ := set $settings "GATEWAY_SANDBOX" "true" }}
{{- end }}
{{- with .Values.upstream.url }}
{{- $_ := set $settings "GATEWAY_UPSTREAM_URL" . }}
{{- end }}
{{- with .Values.proxy.url }}
{{- $_ := set $settings "GATEWAY_UPSTREAM_PROXY" . }}
{{- end }}
{{- with .Values.otlp.endpoint }}
{{- $_ := set $settings "OTEL_EXPORTER_OTLP_ENDPOINT" . }}
{{- end }}
{{- if .Values.tls.enabled }}
{{- $_ := set $settings "GATEWAY_TLS_CERT" "/etc/backup-share-gateway/tls/tls.crt" }}
{{- $_ := set $settings "GATEWAY_TLS_KEY" "/etc/backup-share-gateway/tls/tls.key" }}
{{- end }}
{{- if .Values.tls.mutual }}
{{- $_ := set $settings "GATEWAY_TLS_CLIENT_CA" "/etc/backup-share-gateway/tls/ca.crt" }}
{{- end }}
{{- if .Values.rules }}
{{- $_ := set $settings "GATEWAY_ALLOW_FILE" "/etc/backup-share-gateway/rules/rules" }}
{{- end }}
{{- if ne .Values.auth.mode "passthrough" }}
{{- $_ := set $settings "GATEWAY_AUTH" .Values.auth.mode }}
{{- $_ := set $settings "GATEWAY_SECRETS_DIR" "/etc/backup-share-gateway/credentials" }}
{{- end }}
{{- toYaml (merge (deepCopy .Values.settings) $settings) }}
{{- end -}}
