{{- define "ztnode.name" -}}
{{- default .Release.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "ztnode.selector" -}}
app.kubernetes.io/name: ztnode
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .Values.role }}
{{- end -}}

{{- define "ztnode.labels" -}}
{{ include "ztnode.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end -}}

{{- define "ztnode.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{/* The node: nothing but its state can be written to, and it has no right that a user of the host has not. */}}
{{- define "ztnode.container" -}}
name: ztnode
image: {{ include "ztnode.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args:
  - serve
  - --state=/state
  - --port={{ .Values.port }}
  - --no-port-mapping
  - --log-format=json
  {{- range .Values.networks }}
  - --join={{ . }}
  {{- end }}
  {{- if .Values.planet }}
  - --planet=/secret/planet
  {{- end }}
  {{- if eq .Values.role "sidecar" }}
  - --proxy=127.0.0.1:{{ .Values.sidecar.proxyPort }}
  {{- else if eq .Values.role "controller" }}
  - --controller
  {{- else if eq .Values.role "root" }}
  - --root
  {{- end }}
  {{- if eq .Values.role "gateway" }}
  {{- range .Values.gateway.targets }}
  - --gateway={{ . }}
  {{- end }}
  {{- end }}
  {{- range .Values.extraArgs }}
  - {{ . | quote }}
  {{- end }}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - {name: zerotier, containerPort: {{ .Values.port }}, protocol: UDP}
startupProbe:
  exec: {command: [ztnode, status, --state, /state]}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  exec: {command: [ztnode, status, --state, /state]}
  periodSeconds: 30
  timeoutSeconds: 10
readinessProbe:
  exec: {command: [ztnode, status, --check, --state, /state]}
  periodSeconds: 15
  timeoutSeconds: 10
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - {name: state, mountPath: /state}
  {{- if .Values.planet }}
  - {name: secret, mountPath: /secret, readOnly: true}
  {{- end }}
{{- end -}}

{{/* Puts the identity of the Secret where the node looks for its own. */}}
{{- define "ztnode.identity" -}}
name: identity
image: {{ include "ztnode.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [sh, -c, "umask 077 && mkdir -p /state/zerotier && cp /secret/identity.secret /state/zerotier/identity.secret"]
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
resources:
  requests: {cpu: 10m, memory: 16Mi}
  limits: {memory: 64Mi}
volumeMounts:
  - {name: state, mountPath: /state}
  - {name: secret, mountPath: /secret, readOnly: true}
{{- end -}}

{{- define "ztnode.pod" -}}
metadata:
  labels:
    {{- include "ztnode.labels" . | nindent 4 }}
spec:
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: 10
  securityContext:
    runAsNonRoot: true
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- $sidecar := eq .Values.role "sidecar" }}
  {{- if or $sidecar .Values.existingSecret }}
  initContainers:
    {{- if .Values.existingSecret }}
    - {{- include "ztnode.identity" . | nindent 6 }}
    {{- end }}
    {{- if $sidecar }}
    - restartPolicy: Always
      {{- include "ztnode.container" . | nindent 6 }}
    {{- end }}
  {{- end }}
  containers:
    {{- if $sidecar }}
    - {{- toYaml (required "sidecar.container is the program that speaks to the overlay" .Values.sidecar.container) | nindent 6 }}
    {{- else }}
    - {{- include "ztnode.container" . | nindent 6 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if or $sidecar .Values.existingSecret }}
  volumes:
    {{- if $sidecar }}
    - {name: state, emptyDir: {medium: Memory, sizeLimit: 32Mi}}
    {{- end }}
    {{- with .Values.existingSecret }}
    - {name: secret, secret: {secretName: {{ . }}, defaultMode: 0440}}
    {{- end }}
  {{- end }}
{{- end -}}
