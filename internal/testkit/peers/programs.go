package peers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"github.com/caddy-egress/egress/internal/testkit/testcert"
)

// SquidOptions is what may differ from a squid that allows everybody everything.
type SquidOptions struct {
	// User and Password, where User is not empty, are asked for with Basic
	// authentication, by squid's own helper.
	User, Password string
	// ProxyProtocol makes it require a PROXY protocol header, v1 or v2, as the
	// first bytes of each connection.
	ProxyProtocol bool
	// TLS makes it speak HTTP/1.1 over TLS.
	TLS bool
	// Config are further lines of squid.conf. They come before the line that
	// allows everything, so that "http_access deny …" has an effect.
	Config []string
}

// StartSquid starts an HTTP/1.1 forward proxy that connects to any port,
// loopback included. Its directory is made below dir (empty: os.TempDir); with
// a password, a squid started by root must be able to reach it as user proxy.
func StartSquid(ctx context.Context, dir string, o SquidOptions) (*Peer, error) {
	return program{name: "squid", debian: "squid", tls: o.TLS, command: o.command}.start(ctx, dir)
}

// squidHelper is where Debian keeps the helper that checks passwords.
const squidHelper = "/usr/lib/squid/basic_ncsa_auth"

func (o SquidOptions) command(dir string, port int, files testcert.Files) ([]string, error) {
	listen := fmt.Sprintf("http_port 127.0.0.1:%d", port)
	if o.TLS {
		listen = fmt.Sprintf("https_port 127.0.0.1:%d tls-cert=%s tls-key=%s", port, files.Cert, files.Key)
	}
	if o.ProxyProtocol {
		listen += " require-proxy-header"
	}
	lines := []string{
		listen,
		"pid_filename none",
		"cache_log /dev/null",
		"cache_store_log none",
		"access_log none",
		"netdb_filename none",
		"logfile_rotate 0",
		"pinger_enable off",
		"cache deny all",
		"cache_mem 1 MB",
		"coredump_dir " + dir,
		"visible_hostname squid.test",
		"shutdown_lifetime 0 seconds",
		"max_filedescriptors 4096",
		"proxy_protocol_access allow all",
	}
	if o.User != "" {
		auth, err := o.auth(dir)
		if err != nil {
			return nil, err
		}
		lines = append(lines, auth...)
	}
	lines = append(lines, o.Config...)
	if o.User != "" {
		lines = append(lines, "http_access deny !known")
	}
	lines = append(lines, "http_access allow all")
	conf, err := writeConfig(dir, "squid.conf", lines)
	return []string{"-N", "-n", sharedName(port), "-d", "1", "-f", conf}, err
}

// auth writes the password file and returns the lines that ask for it.
func (o SquidOptions) auth(dir string) ([]string, error) {
	if _, err := os.Stat(squidHelper); err != nil {
		return nil, fmt.Errorf("%w: %s (Debian: apt-get install squid)", ErrNotInstalled, squidHelper)
	}
	if err := reachable(dir); err != nil {
		return nil, err
	}
	if strings.ContainsAny(o.User, ":\n") {
		return nil, fmt.Errorf("user name %q with a colon or a line end", o.User)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(o.Password), bcrypt.MinCost)
	if err != nil {
		return nil, err
	}
	passwords, err := writeConfig(dir, "passwords", []string{o.User + ":" + string(hash)})
	return []string{
		"auth_param basic program " + squidHelper + " " + passwords,
		"auth_param basic children 1 startup=1 idle=1",
		"auth_param basic realm peers",
		"acl known proxy_auth REQUIRED",
	}, err
}

// reachable says whether the user that squid becomes can enter dir.
func reachable(dir string) error {
	if os.Geteuid() != 0 {
		return nil // it stays who it is
	}
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("squid's helper runs as user proxy, who cannot enter %s (mode %v)", d, info.Mode().Perm())
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

// TinyproxyOptions is what may differ from a tinyproxy that allows everybody
// everything.
type TinyproxyOptions struct {
	// User and Password, where User is not empty, are asked for with Basic
	// authentication.
	User, Password string
	// Config are further lines of tinyproxy.conf.
	Config []string
}

// StartTinyproxy starts an HTTP/1 forward proxy that connects to any port. Its
// directory is made below dir (empty: os.TempDir).
func StartTinyproxy(ctx context.Context, dir string, o TinyproxyOptions) (*Peer, error) {
	return program{name: "tinyproxy", debian: "tinyproxy-bin", command: o.command}.start(ctx, dir)
}

func (o TinyproxyOptions) command(dir string, port int, _ testcert.Files) ([]string, error) {
	lines := []string{
		fmt.Sprintf("Port %d", port),
		"Listen 127.0.0.1",
		"Timeout 600",
		"MaxClients 1000",
		"LogLevel Critical",
		"LogFile \"/dev/null\"",
		"Allow 127.0.0.1",
	}
	if o.User != "" {
		lines = append(lines, "BasicAuth "+o.User+" "+o.Password)
	}
	conf, err := writeConfig(dir, "tinyproxy.conf", append(lines, o.Config...))
	return []string{"-d", "-c", conf}, err
}

// NghttpxOptions is how nghttpx stands in front of another proxy.
type NghttpxOptions struct {
	// Backend is the host:port of the HTTP/1 forward proxy that does the work.
	// It is required.
	Backend string
	// MaxStreams is the SETTINGS_MAX_CONCURRENT_STREAMS it announces to its
	// clients. Default: 100.
	MaxStreams int
	// Args are further arguments, such as "--backend-connections-per-host=0".
	Args []string
}

// StartNghttpx starts an HTTP/2 forward proxy over TLS, with HTTP/1.1 for those
// who do not offer h2 by ALPN. Its directory is made below dir (empty:
// os.TempDir).
func StartNghttpx(ctx context.Context, dir string, o NghttpxOptions) (*Peer, error) {
	return program{name: "nghttpx", debian: "nghttp2-proxy", tls: true, command: o.command}.start(ctx, dir)
}

func (o NghttpxOptions) command(dir string, port int, files testcert.Files) ([]string, error) {
	host, backend, ok := strings.Cut(o.Backend, ":")
	if !ok {
		return nil, errors.New("NghttpxOptions.Backend is not host:port")
	}
	if o.MaxStreams == 0 {
		o.MaxStreams = 100
	}
	conf, err := writeConfig(dir, "nghttpx.conf", nil) // else it reads the one in /etc
	args := []string{
		"--conf=" + conf,
		"--http2-proxy",
		"--single-process",
		"--workers=1",
		"--no-ocsp",
		"--errorlog-file=/dev/stderr",
		"--log-level=ERROR",
		fmt.Sprintf("--frontend=127.0.0.1,%d", port),
		fmt.Sprintf("--backend=%s,%s", host, backend),
		"--backend-connections-per-host=1000",
		fmt.Sprintf("--frontend-http2-max-concurrent-streams=%d", o.MaxStreams),
	}
	return append(append(args, o.Args...), files.Key, files.Cert), err
}

// MicrosocksOptions is what may differ from a SOCKS5 proxy open to everybody.
type MicrosocksOptions struct {
	// User and Password, where User is not empty, are the only ones it takes
	// (RFC 1929).
	User, Password string
}

// StartMicrosocks starts a SOCKS5 proxy. Its directory is made below dir
// (empty: os.TempDir).
func StartMicrosocks(ctx context.Context, dir string, o MicrosocksOptions) (*Peer, error) {
	return program{name: "microsocks", debian: "microsocks", command: o.command}.start(ctx, dir)
}

func (o MicrosocksOptions) command(_ string, port int, _ testcert.Files) ([]string, error) {
	args := []string{"-i", "127.0.0.1", "-p", fmt.Sprint(port)}
	if o.User != "" {
		args = append(args, "-u", o.User, "-P", o.Password)
	}
	return args, nil
}

// writeConfig writes lines to a file in dir and returns its path.
func writeConfig(dir, name string, lines []string) (string, error) {
	path := filepath.Join(dir, name)
	return path, os.WriteFile(path, []byte(strings.Join(append(lines, ""), "\n")), 0o644)
}

// PrometheusOptions are what a Prometheus is to scrape.
type PrometheusOptions struct {
	Target string   // host:port
	Path   string   // of the metrics there
	Rules  []string // files
}

// StartPrometheus starts a Prometheus that scrapes and evaluates five times a second.
func StartPrometheus(ctx context.Context, dir string, o PrometheusOptions) (*Peer, error) {
	return program{name: "prometheus", debian: "prometheus", command: o.command}.start(ctx, dir)
}

func (o PrometheusOptions) command(dir string, port int, _ testcert.Files) ([]string, error) {
	rules := ""
	for _, file := range o.Rules {
		rules += fmt.Sprintf("  - %q\n", file)
	}
	config := fmt.Sprintf(`global:
  scrape_interval: 200ms
  scrape_timeout: 200ms
  evaluation_interval: 200ms
rule_files:
%sscrape_configs:
  - job_name: caddy
    metrics_path: %s
    static_configs:
      - targets: [%q]
`, rules, o.Path, o.Target)
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return []string{
		"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--log.level=error",
		fmt.Sprintf("--web.listen-address=127.0.0.1:%d", port),
	}, nil
}
