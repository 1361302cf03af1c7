package netboot

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"carte/lab"
)

// maxPool is how many addresses carte lends when nobody says which.
const maxPool = 1024

// labInterface returns the interface that carte may serve, with its address, or says in one sentence why it may not.
func labInterface(name string) (*net.Interface, netip.Prefix, error) {
	none := netip.Prefix{}
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, none, fmt.Errorf("there is no network interface %q%s: %w", name, interfaceNames(), lab.ErrNotFound)
	}
	switch {
	case ifi.Flags&net.FlagLoopback != 0:
		return nil, none, fmt.Errorf("%s is the loopback, no machine is plugged in there; name the interface that the machines are on: %w", name, lab.ErrRefused)
	case len(ifi.HardwareAddr) != 6 || ifi.Flags&net.FlagBroadcast == 0:
		return nil, none, fmt.Errorf("%s is not an Ethernet interface, nothing can boot from it: %w", name, lab.ErrRefused)
	case ifi.Flags&net.FlagUp == 0:
		return nil, none, fmt.Errorf("interface %s is down; ip link set %s up: %w", name, name, lab.ErrRefused)
	}
	self, err := addressOf(ifi)
	if err != nil {
		return nil, none, err
	}
	out, err := leadsOut(ifi.Index)
	if err != nil {
		return nil, none, fmt.Errorf("routes of %s: %w", name, err)
	}
	if out {
		return nil, none, fmt.Errorf("%s carries the default route, so other people's machines may be on it; give the lab a network card of its own: %w", name, lab.ErrRefused)
	}
	return ifi, self, nil
}

func interfaceNames() string {
	all, err := net.Interfaces()
	if err != nil {
		return ""
	}
	var names []string
	for _, i := range all {
		if i.Flags&net.FlagLoopback == 0 {
			names = append(names, i.Name)
		}
	}
	if len(names) == 0 {
		return "; there is none"
	}
	return "; there are " + strings.Join(names, ", ")
}

// addressOf is the interface's first IPv4 address that is more than link-local, with the size of its network.
func addressOf(ifi *net.Interface) (netip.Prefix, error) {
	all, err := ifi.Addrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("addresses of %s: %w", ifi.Name, err)
	}
	for _, a := range all {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().Is4() || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		if p.Bits() > 29 {
			return netip.Prefix{}, fmt.Errorf("%s has the address %s, a network too small for machines; ip addr add 10.77.0.1/24 dev %s: %w", ifi.Name, p, ifi.Name, lab.ErrRefused)
		}
		return p, nil
	}
	return netip.Prefix{}, fmt.Errorf("interface %s has no IPv4 address; ip addr add 10.77.0.1/24 dev %s: %w", ifi.Name, ifi.Name, lab.ErrRefused)
}

// leadsOut says whether a default route of any table and either IP goes through the interface. VPNs split the default
// route in two halves; those count as well.
func leadsOut(index int) (bool, error) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return false, err
		}
		for _, r := range routes {
			if r.Dst != nil {
				if ones, _ := r.Dst.Mask.Size(); ones > 1 {
					continue
				}
			}
			if r.Type != unix.RTN_UNICAST {
				continue
			}
			if r.LinkIndex == index {
				return true, nil
			}
			for _, hop := range r.MultiPath {
				if hop.LinkIndex == index {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// poolOf is the upper half of a network, at most maxPool addresses, without its broadcast address.
func poolOf(wire netip.Prefix) lab.Pool {
	base := wire.Masked().Addr().As4()
	size := uint32(1) << (32 - wire.Bits())
	first := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3]) + size/2
	last := min(first+maxPool-1, first+size/2-2)
	at := func(n uint32) netip.Addr {
		return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
	}
	return lab.Pool{First: at(first), Last: at(last)}
}

// checkPool refuses a pool that the wire cannot have.
func checkPool(p lab.Pool, wire netip.Prefix) error {
	if !wire.Contains(p.First) || !wire.Contains(p.Last) || p.Last.Less(p.First) {
		return fmt.Errorf("addresses from %s to %s do not lie in order in %s: %w", p.First, p.Last, wire.Masked(), lab.ErrInvalid)
	}
	return nil
}
