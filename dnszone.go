package fluxly

import (
	"context"
	"net"
)

func defaultResolver() Resolver {
	if c, err := NewDNSClient(DNSClientConfig{}); err == nil {
		return c
	}
	return net.DefaultResolver
}

// DomainServer is one of the zone's own name servers.
type DomainServer struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	// State is "ok" or the reason why it could not be asked.
	State string `json:"state"`
}

// DomainProfile names a set of additional checks.
type DomainProfile string

var domainProfiles = []DomainProfile{}

func (k *checker) checkZone(ctx context.Context)                     {}
func (k *checker) checkProfile(ctx context.Context, p DomainProfile) {}
func (k *checker) judgeProfile(p DomainProfile)                      {}
