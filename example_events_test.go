package fluxly_test

import (
	"fmt"
	"strings"

	"github.com/getfluxly/fluxly"
)

func ExampleReadEvents() {
	const lines = `
{"event":"identify","external_id":"user_42","traits":{"email":"ann@acme.test"}}
{"event":"Signed Up","external_id":"user_42"}
{"event":"project_created","external_id":"user_42","properties":{"seats":5},"timestamp":"2026-05-29T09:30:00Z"}
`
	for e, err := range fluxly.ReadEvents(strings.NewReader(lines)) {
		if err != nil {
			fmt.Println(err) // the next line is read all the same
			continue
		}
		fmt.Println(e.Name, e.ExternalID, e.Properties["seats"])
	}
	// Output:
	// identify user_42 <nil>
	// line 3: event "Signed Up": not snake_case: use lower-case letters, digits and underscores, such as project_created
	// project_created user_42 5
}
