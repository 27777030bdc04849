{{- define "ckpt.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "ckpt.labels" -}}
app.kubernetes.io/name: ckpt
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ckpt.image" -}}
{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}

{{- define "ckpt.securityContext" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- /*
Metadata and spec of a pod: engine and ckpt. Takes a dict of root, nodes (pods of one engine), leader (address of the pod
with rank 0, if there are several) and env (variables of a launcher for ckpt).
*/}}
{{- define "ckpt.pod" }}
{{- $values := .root.Values }}
{{- $ckpt := $values.ckpt }}
{{- $scheme := ternary "HTTPS" "HTTP" (ne $values.tlsSecretName "") }}
metadata:
  labels:
    {{- include "ckpt.labels" .root | nindent 4 }}
spec:
  {{- with .restartPolicy }}
  restartPolicy: {{ . }}
  {{- end }}
  # Kubernetes' variables for services could be taken for ours.
  enableServiceLinks: false
  automountServiceAccountToken: false
  # Engine and ranks find each other's memory by process.
  shareProcessNamespace: true
  # A running update is finished first.
  terminationGracePeriodSeconds: 60
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ $values.user }}
    runAsGroup: {{ $values.user }}
    fsGroup: {{ $values.user }}
    seccompProfile:
      type: RuntimeDefault
  initContainers:
    # The engine's image need not contain ckpt's Python package.
    - name: python-package
      image: {{ include "ckpt.image" .root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      command: [cp, -R, /opt/ckpt/python/., /opt/ckpt-python]
      {{- include "ckpt.securityContext" .root | nindent 6 }}
      volumeMounts:
        - name: python
          mountPath: /opt/ckpt-python
  containers:
    - name: engine
      image: {{ $values.engine.image }}
      command: {{ toJson $values.engine.command }}
      {{- with $values.engine.args }}
      args:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      env:
        - name: PYTHONPATH
          value: /opt/ckpt-python
        - name: CKPT_ENGINE_KEY_FILE
          value: /run/secrets/ckpt/engine-key
        - name: XDG_RUNTIME_DIR
          value: /run/ckpt
        {{- with $values.engine.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: engine
          containerPort: {{ $values.engine.port }}
      securityContext:
        allowPrivilegeEscalation: false
        capabilities:
          drop: [ALL]
      {{- with $values.engine.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - name: python
          mountPath: /opt/ckpt-python
          readOnly: true
        {{- include "ckpt.sharedMounts" .root | nindent 8 }}
    - name: ckpt
      image: {{ include "ckpt.image" .root }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      args:
        - serve
        - --nproc={{ $values.engine.ranks }}
        - --engine={{ $values.engine.kind }}=http://{{ .leader | default "127.0.0.1" }}:{{ $values.engine.port }}
        - --parallel-size={{ mul $values.engine.ranks .nodes }}
        - --device={{ $ckpt.device }}
        - --host=0.0.0.0
        - --port={{ $ckpt.port }}
        - --metrics-port={{ $ckpt.metricsPort }}
        - --root=/models
        - --token-file=/run/secrets/ckpt/http-token
        - --history=/run/ckpt/history-{rank}.json
        {{- if $values.tlsSecretName }}
        - --tls-cert=/run/secrets/ckpt-tls/tls.crt
        - --tls-key=/run/secrets/ckpt-tls/tls.key
        {{- end }}
        {{- with $ckpt.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      env:
        {{- with .env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        - name: CKPT_TOKEN_FILE
          value: /run/secrets/ckpt/token
        - name: CKPT_ENGINE_KEY_FILE
          value: /run/secrets/ckpt/engine-key
        - name: CKPT_METRICS_HOST
          value: 0.0.0.0
        - name: XDG_RUNTIME_DIR
          value: /run/ckpt
        {{- with $ckpt.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - name: api
          containerPort: {{ $ckpt.port }}
        - name: metrics
          containerPort: {{ $ckpt.metricsPort }}
      livenessProbe:
        httpGet:
          path: /v1/healthz
          port: api
          scheme: {{ $scheme }}
        periodSeconds: 10
        failureThreshold: 6
      readinessProbe:
        httpGet:
          path: /readyz
          port: metrics
        periodSeconds: 5
      # Ranks meet before they listen, and those of other pods may start later.
      startupProbe:
        httpGet:
          path: /healthz
          port: metrics
        periodSeconds: 5
        failureThreshold: 120
      {{- include "ckpt.securityContext" .root | nindent 6 }}
      {{- with $ckpt.resources }}
      resources:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        {{- include "ckpt.sharedMounts" .root | nindent 8 }}
        - name: tmp
          mountPath: /tmp
        {{- if $values.tlsSecretName }}
        - name: tls
          mountPath: /run/secrets/ckpt-tls
          readOnly: true
        {{- end }}
  volumes:
    # Counts as memory of the containers that write to it.
    - name: shm
      emptyDir:
        medium: Memory
        sizeLimit: {{ $values.shm }}
    - name: run
      emptyDir: {}
    - name: tmp
      emptyDir: {}
    - name: python
      emptyDir: {}
    - name: models
      persistentVolumeClaim:
        claimName: {{ $values.modelsClaim }}
    - name: secret
      secret:
        secretName: {{ $values.secretName }}
        defaultMode: 0400
    {{- if $values.tlsSecretName }}
    - name: tls
      secret:
        secretName: {{ $values.tlsSecretName }}
        defaultMode: 0400
    {{- end }}
  {{- with $values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "ckpt.sharedMounts" -}}
- name: shm
  mountPath: /dev/shm
- name: run
  mountPath: /run/ckpt
- name: models
  mountPath: /models
  readOnly: true
- name: secret
  mountPath: /run/secrets/ckpt
  readOnly: true
{{- end }}
