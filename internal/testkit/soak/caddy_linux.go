package main

import "syscall"

// dieWithParent has the kernel kill a process whose parent is gone.
var dieWithParent = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
