// Package ordered holds a sorted set in memory.
package ordered

import (
	"iter"
	"slices"
)

// chunk is the most items in one chunk. Inserting moves at most this many.
const chunk = 512

// Set is a set of items in the order of a compare function. It is a list of
// sorted chunks: finding is two binary searches, changing moves a part of one
// chunk. It is for one goroutine at a time.
type Set[T any] struct {
	compare func(a, b T) int
	chunks  [][]T // none is empty
	size    int
}

// New makes a set that is sorted by compare. Items that compare equal are one.
func New[T any](compare func(a, b T) int) *Set[T] {
	return &Set[T]{compare: compare}
}

// Len returns the number of items.
func (s *Set[T]) Len() int { return s.size }

// find returns the chunk and the place in it where item stands or belongs.
func (s *Set[T]) find(item T) (c, i int, found bool) {
	// The first chunk whose last item is not before the item.
	c, _ = slices.BinarySearchFunc(s.chunks, item, func(ch []T, item T) int {
		return s.compare(ch[len(ch)-1], item)
	})
	if c == len(s.chunks) {
		return c, 0, false
	}
	i, found = slices.BinarySearchFunc(s.chunks[c], item, s.compare)
	return c, i, found
}

// Insert adds an item; it reports whether the set changed.
func (s *Set[T]) Insert(item T) bool {
	c, i, found := s.find(item)
	if found {
		return false
	}
	s.size++
	if c == len(s.chunks) {
		if c == 0 {
			s.chunks = append(s.chunks, append(make([]T, 0, 8), item))
			return true
		}
		c--
		i = len(s.chunks[c])
	}
	ch := slices.Insert(s.chunks[c], i, item)
	s.chunks[c] = ch
	if len(ch) > chunk {
		// A set that only grows at its end keeps its chunks full.
		half := len(ch) / 2
		if i == len(ch)-1 {
			half = len(ch) - 1
		}
		right := slices.Clone(ch[half:])
		clear(ch[half:])
		s.chunks[c] = ch[:half]
		s.chunks = slices.Insert(s.chunks, c+1, right)
	}
	return true
}

// Delete removes an item; it reports whether the set changed.
func (s *Set[T]) Delete(item T) bool {
	c, i, found := s.find(item)
	if !found {
		return false
	}
	s.size--
	s.chunks[c] = slices.Delete(s.chunks[c], i, i+1)
	if len(s.chunks[c]) == 0 {
		s.chunks = slices.Delete(s.chunks, c, c+1)
	}
	return true
}

// From yields the items at or after first, in order. The set must not change
// meanwhile.
func (s *Set[T]) From(first T) iter.Seq[T] {
	return func(yield func(T) bool) {
		c, i, _ := s.find(first)
		for ; c < len(s.chunks); c, i = c+1, 0 {
			for _, item := range s.chunks[c][i:] {
				if !yield(item) {
					return
				}
			}
		}
	}
}
