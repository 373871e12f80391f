{{/* Labels of every object. */}}
{{- define "cwasi.labels" -}}
app.kubernetes.io/part-of: cwasi
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* An image: (list $ "cwasi-agent"). */}}
{{- define "cwasi.image" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end }}{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{/* What pods of both DaemonSets have in common. */}}
{{- define "cwasi.pod" -}}
serviceAccountName: {{ .Values.serviceAccount.name }}
automountServiceAccountToken: false
enableServiceLinks: false
priorityClassName: {{ .Values.priorityClassName }}
{{- with .Values.seLinuxOptions }}
securityContext:
  seLinuxOptions:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where the agent finds what it shares with the node, and what it mounts for that. */}}
{{- define "cwasi.agent.env" -}}
- name: CWASI_SOCKET
  value: /run/cwasi/agent.sock
- name: CWASI_BPFFS
  value: /bpf
{{- end }}

{{- define "cwasi.agent.mounts" -}}
- name: run
  mountPath: /run/cwasi
- name: bpffs
  mountPath: /bpf
- name: cgroup
  mountPath: /sys/fs/cgroup
  mountPropagation: HostToContainer
  readOnly: true
{{- end }}

{{- define "cwasi.agent.volumes" -}}
- name: run
  hostPath:
    path: /run/cwasi
    type: DirectoryOrCreate
# No type: the kubelet would look before bpffs is mounted. The container runtime makes the directory.
- name: bpffs
  hostPath:
    path: /sys/fs/bpf/cwasi
- name: cgroup
  hostPath:
    path: /sys/fs/cgroup
    type: Directory
{{- end }}

{{/* Which container runtime the installer changes, and how. */}}
{{- define "cwasi.installer.env" -}}
- name: CWASI_HOST_ROOT
  value: /host
- name: CWASI_HANDLER
  value: cwasi
- name: CWASI_PREFIX
  value: {{ .prefix }}
- name: CWASI_RESTART
  value: {{ .restart }}
- name: CWASI_SERVICE
  value: {{ .service }}
- name: CWASI_KUBELET_ROOT
  value: {{ .kubeletRoot }}
{{- with .containerdConfig }}
- name: CWASI_CONTAINERD_CONFIG
  value: {{ . }}
{{- end }}
{{- with .containerd }}
- name: CWASI_CONTAINERD
  value: {{ . }}
{{- end }}
{{- with .restartCommand }}
- name: CWASI_RESTART_COMMAND
  value: {{ . | quote }}
{{- end }}
{{- with .with }}
- name: CWASI_WITH
  value: {{ join "," . }}
{{- end }}
{{- end }}

{{- define "cwasi.installer.securityContext" -}}
runAsUser: 0
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  add: [SYS_CHROOT, CHOWN, FOWNER, DAC_OVERRIDE]
seccompProfile:
  type: RuntimeDefault
{{- end }}
