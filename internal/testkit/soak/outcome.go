package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// outcome is how a request ended, as its client saw it.
type outcome struct {
	class      string
	answered   bool // the head of an answer came
	err        error
	start, end time.Time
}

// The classes of outcomes. An answer with an error is a class of its own: its
// status, and the error of its Proxy-Status.
const (
	whole    = "whole"
	broken   = "broken off"
	noAnswer = "no answer"
	timedOut = "timed out"
)

// failed is the outcome of a request that ended with an error.
func failed(answered bool, err error) outcome {
	o := outcome{class: noAnswer, answered: answered, err: err}
	var ne net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &ne) && ne.Timeout():
		o.class = timedOut
	case answered:
		o.class = broken
	}
	return o
}

// answeredWith is the outcome of a request that got an error for an answer.
func answeredWith(resp *http.Response) outcome {
	class := strconv.Itoa(resp.StatusCode)
	status := strings.Join(resp.Header.Values("Proxy-Status"), ", ")
	if _, typ, ok := strings.Cut(status, "error="); ok {
		typ, _, _ = strings.Cut(typ, ";")
		class += " " + typ
	}
	return outcome{class: class, answered: true, err: fmt.Errorf("%s, Proxy-Status: %s", resp.Status, status)}
}

// violations are what must never happen, whatever fails.
type violations struct {
	mu   sync.Mutex
	list []string
}

func (v *violations) add(format string, args ...any) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.list = append(v.list, fmt.Sprintf(format, args...))
}

func (v *violations) all() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]string(nil), v.list...)
}
