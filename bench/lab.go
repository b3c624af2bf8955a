//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// lab is what the subjects have in common.
type lab struct {
	ctx      context.Context
	dir      string // for what they write
	source   string // of this module
	refcaddy string // the binary
	goproxy  string // the binary; empty until it is built
	cert     keyPair
	origin   *child
	listener map[string]string // the origin's, by name

	hasty   bool             // memory is read as it is, once
	absent  map[string]error // subjects that were looked at; nil: it is there
	skipped []string         // what is not measured, and why
}

// newLab builds the binary of the Caddy subjects and starts an origin.
func newLab(ctx context.Context, dir string) (*lab, error) {
	l := &lab{ctx: ctx, dir: dir, refcaddy: filepath.Join(dir, "refcaddy"), absent: make(map[string]error)}
	const module = "github.com/caddy-egress/egress"
	list := command(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module)
	list.Stderr = os.Stderr
	source, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("looking for the source of %s: %w", module, err)
	}
	l.source = strings.TrimSpace(string(source))
	if err := l.build(l.refcaddy, l.source, "./bench/refcaddy"); err != nil {
		return nil, err
	}
	if l.cert, err = newKeyPair(dir); err != nil {
		return nil, err
	}
	l.origin, err = startSelf(ctx, &l.listener, "origin", l.cert.cert, l.cert.key)
	return l, err
}

// build compiles a package that lies below a directory.
func (l *lab) build(binary, dir, pkg string) error {
	build := command(l.ctx, "go", "build", "-o", binary, pkg)
	build.Dir = dir
	var said bytes.Buffer
	build.Stderr = &said
	if err := build.Run(); err != nil {
		return fmt.Errorf("building %s: %w: %s", pkg, err, strings.TrimSpace(said.String()))
	}
	return nil
}

// keyPair is a self-signed certificate for 127.0.0.1 and its key, as PEM files.
// The origin has it, and so has every subject that speaks TLS with clients.
type keyPair struct{ cert, key string }

func newKeyPair(dir string) (keyPair, error) {
	pair := keyPair{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              []string{"localhost"},
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return pair, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return pair, err
	}
	if err := os.WriteFile(pair.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644); err != nil {
		return pair, err
	}
	return pair, os.WriteFile(pair.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}
