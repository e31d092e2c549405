package fluxly

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCountersAddEachFigure(t *testing.T) {
	t.Parallel()
	var n, want Counters
	v, w := reflect.ValueOf(&n).Elem(), reflect.ValueOf(&want).Elem()
	for i := range v.NumField() {
		v.Field(i).SetInt(int64(i + 1))
		w.Field(i).SetInt(int64(2 * (i + 1)))
	}
	var c counters
	c.add(n)
	c.add(n)
	if diff := cmp.Diff(want, c.sum); diff != "" {
		t.Errorf("the sum (-want +got):\n%s", diff)
	}
}
