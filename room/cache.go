// SPDX-License-Identifier: Apache-2.0

package room

import (
	"container/list"
	"sync"
)

// cache keeps what was used last, within a number of bytes. Only what is durable is put in. Safe for concurrent use.
type cache[K comparable, V any] struct {
	mu    sync.Mutex // for moments
	limit int        // bytes
	size  int
	order *list.List // of *cached[K, V], the newest in front
	items map[K]*list.Element
}

type cached[K comparable, V any] struct {
	key  K
	v    V
	size int
}

func newCache[K comparable, V any](limit int) *cache[K, V] {
	return &cache[K, V]{limit: limit, order: list.New(), items: map[K]*list.Element{}}
}

func (c *cache[K, V]) get(k K) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.items[k]
	if e == nil {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached[K, V]).v, true
}

// put keeps v; what is larger than a quarter of everything is not kept.
func (c *cache[K, V]) put(k K, v V, size int) { c.putIf(k, v, size, func() bool { return true }) }

// putIf is put if cond holds when nobody else can put.
func (c *cache[K, V]) putIf(k K, v V, size int, cond func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cond() {
		c.insert(k, v, size)
	}
}

// together runs fn, which may put, while nobody else can.
func (c *cache[K, V]) together(fn func(put func(K, V, int))) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fn(c.insert)
}

// insert is put under the lock.
func (c *cache[K, V]) insert(k K, v V, size int) {
	if e := c.items[k]; e != nil {
		c.size -= c.order.Remove(e).(*cached[K, V]).size
		delete(c.items, k)
	}
	if size > c.limit/4 {
		return
	}
	c.items[k] = c.order.PushFront(&cached[K, V]{k, v, size})
	c.size += size
	for c.size > c.limit {
		x := c.order.Remove(c.order.Back()).(*cached[K, V])
		delete(c.items, x.key)
		c.size -= x.size
	}
}
