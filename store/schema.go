// SPDX-License-Identifier: Apache-2.0

package store

// The key schema of a node: one prefix byte a table. Each table has one owner, who documents its rows beside the
// code that writes them. A change of any row's form raises Version and needs a migration.
const (
	TableMeta    = 0x01 // store: schema version, stream lease
	TableOutbox  = 0x02 // store: items for other nodes
	TableRoom    = 0x10 // room: 0x10..0x2f
	TableAccount = 0x30 // account: 0x30..0x4f
	TableContact = 0x50 // replicate: 0x50..0x6f
)

// Version is the newest schema version that this program writes.
const Version = 1
