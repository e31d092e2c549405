package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/getfluxly/fluxly"
)

func ExampleNewPostmark() {
	// Stands in for api.postmarkapp.com.
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), "bob@example.com") {
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = io.WriteString(w, `{"ErrorCode":406,"Message":"You tried to send to recipient(s) that have been marked as inactive."}`)
			return
		}
		_, _ = io.WriteString(w, `{"ErrorCode":0,"Message":"OK","MessageID":"0a129aee-e1cd-480d-b08d-4f48548ff48d"}`)
	}))
	defer api.Close()

	sender, err := fluxly.NewPostmark(fluxly.PostmarkConfig{
		ServerToken:   "11111111-2222-3333-4444-555555555555",
		MessageStream: "lifecycle-production",
		BaseURL:       api.URL, // leave it out for Postmark itself
	})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = sender.Close() }()

	for _, to := range []string{"ann@example.com", "bob@example.com"} {
		receipt, err := sender.Send(context.Background(), &fluxly.Message{
			SendKey: "run_42/welcome/1", From: "Acme <hello@acme.test>", To: to, Subject: "Welcome", Text: "Hello!\n",
		})
		var de *fluxly.DeliveryError
		if errors.As(err, &de) {
			fmt.Println(de.Kind, de.ProviderCode, de.Remedy)
			continue
		}
		fmt.Println(receipt.ID)
	}
	// Output:
	// 0a129aee-e1cd-480d-b08d-4f48548ff48d
	// permanent 406 the recipient is suppressed in Postmark; reactivate the address there only if the person asks for it
}

func ExampleDecodePostmarkNotice() {
	n, err := fluxly.DecodePostmarkNotice([]byte(`{
		"RecordType": "SubscriptionChange", "MessageStream": "lifecycle-production", "ChangedAt": "2026-03-01T09:30:00Z",
		"Recipient": "ann@example.com", "Origin": "Recipient", "SuppressSending": true, "SuppressionReason": "ManualSuppression"
	}`))
	if err != nil {
		log.Fatal(err)
	}
	if s, ok := n.Suppression(); ok {
		fmt.Println("write no more to", s.Address, "on", s.Stream+":", s.Reason)
	}
	// Output: write no more to ann@example.com on lifecycle-production: ManualSuppression
}
