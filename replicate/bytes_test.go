// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

// Every profile costs what it says, counted on the way between the node and its couriers: all that a node sends and
// receives in some hours is frames and page frames, to the byte, as many as the profile makes.
func TestEveryProfileCostsWhatItSaysOnTheWire(t *testing.T) {
	measures(t)
	table := map[string]float64{"instant": 577e6, "balanced": 173e6, "economy": 29e6, "paranoid": 220e6} // DESIGN §5
	for _, p := range Profiles() {
		t.Run(p.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newRealWorld(t, 2, 5, 700*time.Millisecond)
				defer w.end()
				a, b := w.add(1, p), w.add(2, p)
				w.contact(a, b)
				time.Sleep(60*p.Frame + 2*p.Lag)
				tally := func() (bytes, direct, frames int64) {
					w.far.mu.Lock()
					defer w.far.mu.Unlock()
					return w.far.up["session"] + w.far.down["session"], w.far.up["mailbox"] + w.far.down["mailbox"], w.frames.Load()
				}
				bytes, direct, frames := tally()
				const ticks = 250
				long := ticks * p.Frame
				time.Sleep(long)
				bytes2, direct2, frames2 := tally()
				bytes, direct, frames = bytes2-bytes, direct2-direct, frames2-frames
				if direct != 0 {
					t.Errorf("%d bytes went past the couriers", direct)
				}
				if d := float64(frames) - 2*ticks; math.Abs(d) > 4*math.Sqrt(2*ticks) {
					t.Errorf("%d frames of two nodes, %d expected", frames, 2*ticks)
				}
				// What is left when the frames are taken off, but for those on the way at either end, is page frames.
				pushes := float64(bytes-frames*int64(frameBytes(p.Hops))) / mailbox.PageFrameSize
				slack := 2 + 2*float64(p.Lag+2*oneWay)/float64(p.Frame)*float64(frameBytes(p.Hops))/mailbox.PageFrameSize + 4*math.Sqrt(2*float64(p.Lag)/float64(p.Frame))*20
				if d := pushes - 2*float64(long)/float64(p.Push); math.Abs(d) > slack {
					t.Errorf("%.1f page frames, %.1f expected", pushes, 2*float64(long)/float64(p.Push))
				}
				day := float64(24*time.Hour)/float64(p.Frame)*float64(frameBytes(p.Hops)) + float64(24*time.Hour)/float64(long)*pushes/2*mailbox.PageFrameSize
				t.Logf("%d frames, %.1f page frames: %.1f MB a day; the table: %.0f", frames, pushes, day/1e6, table[p.Name]/1e6)
				if said := float64(a.engine.Traffic().BytesPerDay); math.Abs(day-said) > 0.03*said || math.Abs(said-table[p.Name]) > 0.05*table[p.Name] {
					t.Errorf("%.1f MB a day; the node says %.1f, the table %.1f", day/1e6, said/1e6, table[p.Name]/1e6)
				}
			})
		})
	}
}
