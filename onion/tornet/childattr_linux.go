// SPDX-License-Identifier: Apache-2.0

package tornet

import "syscall"

// childAttr: a group of its own, since Ctrl-C at our terminal is for us, and we end tor when we are done with it; and
// the kernel kills it when the thread that started it ends. The last is for a tor that hangs in its own exit after
// TAKEOWNERSHIP (seen in 0.4.9.11, a deadlock): it would hold the lock of its data directory for ever.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
