package fluxly_test

import (
	"encoding/json"
	"fmt"

	"github.com/getfluxly/fluxly"
)

func ExampleCondition() {
	c := fluxly.All(
		fluxly.Prop("plan").In("pro", "team"),
		fluxly.Attr("country").IsNot("US"),
		fluxly.Did("report_exported").AtLeast(50).Within(30*fluxly.Day),
	)
	fmt.Println(c)
	text, err := json.Marshal(c)
	fmt.Println(string(text), err)

	var back fluxly.Condition
	err = json.Unmarshal(text, &back)
	fmt.Println(back.Equal(c), err)
	// Output:
	// prop plan in ["pro","team"] and attr country is not "US" and did report_exported at least 50 times within 30d
	// {"all":[{"prop":"plan","in":["pro","team"]},{"attr":"country","is_not":"US"},{"did":"report_exported","at_least":50,"within":"720h"}]} <nil>
	// true <nil>
}

func ExampleCondition_Validate() {
	c := fluxly.Any(
		fluxly.Attr("seats").GreaterThan("ten"),
		fluxly.Did("Report Exported"),
	)
	fmt.Println(c.Validate())
	// Output:
	// any[0].greater_than "ten": must be a number; compare times with before, after or between; any[1].did "Report Exported": not snake_case: use lower-case letters, digits and underscores, such as project_created
}

func ExampleDid() {
	fmt.Println(fluxly.Did("login").Never().Within(fluxly.Week))
	fmt.Println(fluxly.Did("project_created").AtLeast(3).Where(fluxly.Prop("kind").Is("web")))
	// Output:
	// never did login within 7d
	// did project_created at least 3 times where (prop kind is "web")
}

func ExampleField() {
	fmt.Println(fluxly.Attr("trial_ends_at").WithinNext(3 * fluxly.Day))
	fmt.Println(fluxly.Attr("address.city").Is("Bern"))
	fmt.Println(fluxly.Attr("tags").Includes("beta"))
	// Output:
	// attr trial_ends_at within the next 3d
	// attr address.city is "Bern"
	// attr tags includes "beta"
}
