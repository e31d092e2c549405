// Package fluxlytest helps to test programs that use fluxly.
//
// # Automations
//
// [New] makes a [Kit] for automations: the engine that runs live, with a store
// in memory, a virtual clock at [Start], a sender that keeps the mails, and a
// plain template for each mail that the automations name. A month takes
// milliseconds.
//
//	k := fluxlytest.New(t, trialOnboarding)
//	k.Track(fluxly.Event{Name: "signed_up", ExternalID: "u1", Properties: fluxly.Properties{"plan": "trial"}})
//	k.Advance(3 * fluxly.Day)
//	k.WantSent("u1", "welcome", "first-project-nudge")
//
// [Kit.WantNotSent] asks for the reason of a mail that did not go. [NewConfig]
// takes a configuration of the test's own, such as the real templates or the
// real store.
//
// # Senders
//
// [PostmarkSMTP] is a stand-in for Postmark's SMTP service on a loopback port:
// STARTTLS, login by server token, Message Streams, metadata, suppressions,
// and faults by script. [FakeSender] is a [fluxly.Sender] with scripted
// outcomes for tests that need no wire at all.
//
// # Crashes
//
// [TestCrashSchedules] runs automations, with steps and conditions of the
// program's own, under schedules of stops, freezes, restarts, repeated and
// reordered calls, clock jumps and lost replies, on one process or several. It
// states what must hold and checks it; each schedule comes from a seed that
// repeats it.
//
//	func TestTrialUnderCrashes(t *testing.T) {
//		fluxlytest.TestCrashSchedules(t, fluxlytest.CrashConfig{
//			Engine: fluxly.Config{Automations: []fluxly.Automation{trialOnboarding}},
//		})
//	}
//
// # Stores
//
// [TestStore] is the contract of [fluxly.Store] as a suite, for a store of your
// own; [TestCrashes] stops at every commit of a workload and looks whether a
// mail was lost or came twice, and [TestCrashSchedules] runs on it with
// CrashConfig.Open. [CheckInvariants] looks at what a store holds.
//
// Nothing here sleeps, and whatever is started stops with Close or with the
// test that started it.
package fluxlytest
