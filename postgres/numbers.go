package postgres

import (
	"sync"
)

// pidBlock is how many numbers for people a process draws at once.
const pidBlock = 256

// numbers hands out numbers of people, from blocks that the database gives.
type numbers struct {
	mu   sync.Mutex
	free []int64
}

// take returns up to n numbers; fewer when a block must be drawn.
func (p *numbers) take() (pid int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.free)
	if n == 0 {
		return 0, false
	}
	pid, p.free = p.free[n-1], p.free[:n-1]
	return pid, true
}

// left returns how many are left.
func (p *numbers) left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free)
}

// drop forgets all numbers that are left: somebody else may have them, because
// a crash of the server set the sequence back.
func (p *numbers) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = nil
}

// add adds the block that begins with one that was drawn.
func (p *numbers) add(block int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for n := block*pidBlock + pidBlock - 1; n >= block*pidBlock; n-- {
		p.free = append(p.free, n)
	}
}

// namesKept is the most names of events that a process remembers.
const namesKept = 10_000

// names are the numbers of the names of events, as far as they are committed.
type names struct {
	mu   sync.RWMutex
	nids map[string]int32
}

func (n *names) get(name string) (int32, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	nid, ok := n.nids[name]
	return nid, ok
}

func (n *names) add(nids map[string]int32) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nids == nil || len(n.nids) >= namesKept {
		n.nids = make(map[string]int32)
	}
	for name, nid := range nids {
		n.nids[name] = nid
	}
}
