package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"

	"github.com/getfluxly/fluxly"
)

// standIn answers as GetFluxly's API does and prints what it was sent.
func standIn() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Println(r.Method, r.URL.Path, string(body))
		switch r.URL.Path {
		case "/v1/projects/proj_1/email-providers":
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"id":"prov_7"}`)
		case "/v1/identify/alias":
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"error":"alias_conflict","detail":"anon_7f3a belongs to another profile"}`)
		default:
			w.WriteHeader(http.StatusAccepted)
			_, _ = io.WriteString(w, `{"accepted":1,"rejected":0,"request_id":"req_1"}`)
		}
	}))
}

func ExampleNewClient() {
	api := standIn()
	defer api.Close()
	client, err := fluxly.NewClient(fluxly.ClientConfig{
		APIKey:  "gflux_secret_live_example", // os.Getenv("GFLUX_SERVER_TOKEN")
		BaseURL: api.URL,                     // leave it out for the hosted API
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	ctx := context.Background()
	err = client.Alias(ctx, fluxly.Alias{UserID: "user_42", AnonymousID: "anon_7f3a"})
	if errors.Is(err, fluxly.ErrAliasConflict) {
		fmt.Println(err)
	}
	err = client.Track(ctx, fluxly.Event{Name: "Signed Up", ExternalID: "user_42"})
	fmt.Println(err)
	// Output:
	// POST /v1/identify/alias {"user_id":"user_42","anonymous_id":"anon_7f3a"}
	// getfluxly POST /v1/identify/alias: 409 alias_conflict: anon_7f3a belongs to another profile
	// event "Signed Up": not snake_case: use lower-case letters, digits and underscores, such as project_created
}

func ExampleClient_CreateProvider() {
	api := standIn()
	defer api.Close()
	client, err := fluxly.NewClient(fluxly.ClientConfig{APIKey: "gflux_secret_live_example", BaseURL: api.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	const serverToken = "00000000-0000-0000-0000-000000000000"
	provider := fluxly.PostmarkProvider(serverToken, "Acme <hello@acme.test>")
	provider.DisplayName = "Postmark Production"
	p, err := client.CreateProvider(context.Background(), "proj_1", provider)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("made", p.ID)
	// Output:
	// POST /v1/projects/proj_1/email-providers {"provider":"smtp","display_name":"Postmark Production","from_email":"hello@acme.test","from_name":"Acme","smtp_host":"smtp.postmarkapp.com","smtp_port":587,"smtp_secure":"starttls","username":"00000000-0000-0000-0000-000000000000","password":"00000000-0000-0000-0000-000000000000"}
	// made prov_7
}

func ExampleClient_TestProvider() {
	api := standIn()
	defer api.Close()
	client, err := fluxly.NewClient(fluxly.ClientConfig{APIKey: "gflux_secret_live_example", BaseURL: api.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()

	res, err := client.TestProvider(context.Background(), "prov_7", "you@acme.test")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("request", res.RequestID)
	// Output:
	// POST /v1/email-providers/prov_7/test {"to":"you@acme.test"}
	// request req_1
}
