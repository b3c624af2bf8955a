//go:build !linux

package main

import "syscall"

// dieWithParent is nothing here: a parent that is killed leaves its children.
var dieWithParent *syscall.SysProcAttr
