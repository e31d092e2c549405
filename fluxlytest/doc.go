// Package fluxlytest helps to test programs that use fluxly.
//
// [PostmarkSMTP] is a stand-in for Postmark's SMTP service on a loopback port:
// STARTTLS, login by server token, Message Streams, metadata, suppressions,
// and faults by script. [FakeSender] is a [fluxly.Sender] with scripted
// outcomes for tests that need no wire at all.
//
// Nothing here sleeps, and whatever is started stops with Close or with the
// test that started it.
package fluxlytest
