package fluxlyhttp_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlyhttp"
)

// printer stands for the engine.
type printer struct{ fluxly.Tracker }

func (printer) Track(_ context.Context, e fluxly.Event) error {
	fmt.Println("tracked", e.Name, "of", e.ExternalID)
	return nil
}

func ExampleNewIntake() {
	intake, err := fluxlyhttp.NewIntake(fluxlyhttp.IntakeConfig{
		Tracker:    printer{},
		ServerKeys: []fluxly.Secret{fluxly.NewSecret("gflux_secret_example_0123456789")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	mux.Handle("/ingest/", http.StripPrefix("/ingest", intake))

	r := httptest.NewRequest(http.MethodPost, "/ingest/v1/events", strings.NewReader(`{"event":"signed_up","external_id":"user_42"}`))
	r.Header.Set("Authorization", "Bearer gflux_secret_example_0123456789")
	r.Header.Set("X-Idempotency-Key", "1b4e28ba-2fa1-41d2-883f-0016d3cca427")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	fmt.Print(w.Code, " ", w.Body)
	// Output:
	// tracked signed_up of user_42
	// 202 {"accepted":1,"rejected":0,"request_id":"req_67c7e88f492fce08e8182cfa"}
}
