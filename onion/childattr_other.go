// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package onion

import "syscall"

// childAttr: a group of its own, since Ctrl-C at our terminal is for us. When we are killed, only TAKEOWNERSHIP and
// __OwningControllerProcess end tor here.
func childAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
