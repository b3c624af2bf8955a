package peers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// TrafficServerOptions is what may differ from an Apache Traffic Server that
// allows loopback everything.
type TrafficServerOptions struct {
	// Config are further lines of records.config.
	Config []string
}

// StartTrafficServer starts Apache Traffic Server as an HTTP/1.1 forward proxy
// without a cache, which connects to any port. Its directory is made below dir
// (empty: os.TempDir).
func StartTrafficServer(ctx context.Context, dir string, o TrafficServerOptions) (*Peer, error) {
	return program{name: "traffic_server", debian: "trafficserver", command: o.command}.start(ctx, dir)
}

// command lays out, below dir, the directories that Traffic Server expects, and
// names them in a run root: it has no argument for its configuration alone.
func (o TrafficServerOptions) command(dir string, port int, _ testcert.Files) ([]string, error) {
	etc := filepath.Join(dir, "etc")
	for _, sub := range []string{"etc", "var", "log", "cache"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	records := append([]string{
		fmt.Sprintf("CONFIG proxy.config.http.server_ports STRING %d:ip-in=127.0.0.1", port),
		"CONFIG proxy.config.admin.user_id STRING #-1", // stay who it is: the directory is ours
		"CONFIG proxy.config.local_state_dir STRING " + filepath.Join(dir, "var"),
		"CONFIG proxy.config.reverse_proxy.enabled INT 0",
		"CONFIG proxy.config.url_remap.remap_required INT 0",
		"CONFIG proxy.config.http.cache.http INT 0",
		"CONFIG proxy.config.http.connect_ports STRING *",
		"CONFIG proxy.config.log.logging_enabled INT 0",
		"CONFIG proxy.config.crash_log_helper STRING NULL",
	}, o.Config...)
	for name, lines := range map[string][]string{
		"records.config": records,
		"ip_allow.yaml":  {"ip_allow:", "  - apply: in", "    ip_addrs: 127.0.0.0/8", "    action: allow", "    methods: ALL"},
		"storage.config": nil,
		"remap.config":   nil,
		"plugin.config":  nil,
		"logging.yaml":   nil,
	} {
		if _, err := writeConfig(etc, name, lines); err != nil {
			return nil, err
		}
	}
	root, err := writeConfig(dir, "runroot.yaml", []string{
		"prefix: " + dir,
		"exec_prefix: /usr",
		"bindir: /usr/bin",
		"sbindir: /usr/bin",
		"includedir: /usr/include",
		"libdir: /usr/lib",
		"libexecdir: /usr/lib/trafficserver/modules",
		"sysconfdir: " + etc,
		"datadir: " + filepath.Join(dir, "cache"),
		"cachedir: " + filepath.Join(dir, "cache"),
		"localstatedir: " + filepath.Join(dir, "var"),
		"runtimedir: " + filepath.Join(dir, "var"),
		"logdir: " + filepath.Join(dir, "log"),
	})
	return []string{"--run-root=" + root}, err
}
