package netboot

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"time"

	"carte/lab"
	"carte/netboot/payload"
)

// Doctor looks at what a server with that configuration needs, while none runs. It opens ports and closes them again and
// sends a DHCP question on the interface. Only Payload, Interface, DHCP, Pool, the addresses and Probe are looked at.
func Doctor(ctx context.Context, c Config) []lab.Finding {
	all := payloadFindings(c.Payload)
	if c.Interface == "" {
		return append(all, lab.Finding{What: "network", OK: true, Why: "no interface is served; only virtual machines of this computer boot from here"})
	}
	ifi, self, err := labInterface(c.Interface)
	if err != nil {
		return append(all, lab.Finding{What: "interface " + c.Interface, Must: true, Why: clause(err), Fix: fix(err)})
	}
	all = append(all, lab.Finding{What: "interface " + c.Interface, OK: true, Must: true, Why: self.String()})
	all = append(all, portFindings(ctx, c, self.Addr().String())...)
	all = append(all, otherFinding(ctx, c, ifi))
	return append(all, firewallFinding(ctx, c.Interface))
}

// Doctor looks at a server that runs.
func (s *Server) Doctor(ctx context.Context) []lab.Finding {
	all := payloadFindings(s.cfg.Payload)
	now, err := s.cfg.Lab.Watch(ctx, 0)
	if err != nil {
		return append(all, lab.Finding{What: "lab", Must: true, Why: err.Error()})
	}
	for _, name := range []string{"dhcp", "tftp", "http", "ra"} {
		if x, ok := now.Services[name]; ok {
			all = append(all, lab.Finding{What: name + " " + x.State, OK: x.OK, Must: name != "ra", Why: x.Note})
		}
	}
	if s.cfg.Interface != "" {
		all = append(all, firewallFinding(ctx, s.cfg.Interface))
	}
	return all
}

func payloadFindings(p Payload) []lab.Finding {
	agent := lab.Finding{What: "kernel and agent", OK: true, Must: true, Why: "ready for machines"}
	_, err := p.Kernel()
	if err == nil {
		_, err = p.Initramfs()
	}
	if err != nil {
		agent.OK, agent.Why, agent.Fix = false, err.Error(), "make payload build"
	}
	all := []lab.Finding{agent}
	for _, name := range []string{payload.UndionlyFile, payload.IPXEFile} {
		if _, ok := p.IPXE(name); !ok {
			all = append(all, lab.Finding{What: name, Must: true, Why: "the boot program is not there"})
		}
	}
	return all
}

// portFindings opens and closes every port that the server would.
func portFindings(ctx context.Context, c Config, self string) []lab.Finding {
	var all []lab.Finding
	add := func(name string, err error) {
		f := lab.Finding{What: name, OK: err == nil, Must: true}
		if err != nil {
			f.Why, f.Fix = clause(err), fix(err)
		}
		all = append(all, f)
	}
	if c.DHCP != "off" {
		for _, port := range []int{67, 4011} {
			conn, err := openUDP(ctx, c.Interface, port)
			if err == nil {
				err = conn.Close()
			}
			add(fmt.Sprintf("UDP port %d", port), err)
		}
	}
	for _, p := range []struct{ network, addr, flag string }{
		{"udp", net.JoinHostPort(self, "69"), "stop that, or let it serve another interface alone"},
		{"tcp", or(c.Listen, net.JoinHostPort(self, portHTTP)), "stop that, or choose another with --listen"},
		{"tcp", or(c.ListenAPI, net.JoinHostPort(self, portAPI)), "stop that, or choose another with --listen-api"},
	} {
		err := tryPort(p.network, p.addr)
		if err != nil {
			err = refusedPort(err, p.network, p.addr, p.flag)
		}
		add(strings.ToUpper(p.network)+" "+p.addr, err)
	}
	return all
}

func tryPort(network, addr string) error {
	if network == "tcp" {
		l, err := net.Listen(network, addr)
		if err != nil {
			return err
		}
		return l.Close()
	}
	l, err := net.ListenPacket(network, addr)
	if err != nil {
		return err
	}
	return l.Close()
}

func otherFinding(ctx context.Context, c Config, ifi *net.Interface) lab.Finding {
	f := lab.Finding{What: "other DHCP servers on " + ifi.Name}
	e, err := openEar(ifi)
	if err != nil {
		f.Why = fmt.Sprintf("cannot listen: %v", err)
		f.Fix = "sudo setcap cap_net_bind_service,cap_net_raw+ep ./carte"
		return f
	}
	defer e.Close()
	if c.Probe == 0 {
		c.Probe = 6 * time.Second
	}
	o, found, err := e.probe(ctx, c.Probe)
	switch {
	case err != nil:
		f.Why = fmt.Sprintf("cannot listen: %v", err)
	case !found:
		f.OK, f.Why = true, fmt.Sprintf("none heard in %s", c.Probe)
	case o.lends && (c.DHCP == "proxy" || c.DHCP == "auto" || c.DHCP == ""):
		f.OK, f.Why = true, fmt.Sprintf("%s gives the addresses; carte adds the boot", o)
	default:
		f.Must, f.Why, f.Fix = true, clause(o.refusal(ifi.Name)), "stop it, or dhcp = proxy"
	}
	return f
}

// firewallFinding looks for a rule that would drop what machines send. It only reads, and can only hint: a rule set is a
// program.
func firewallFinding(ctx context.Context, ifname string) lab.Finding {
	f := lab.Finding{What: "firewall", OK: true}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "nft", "list", "ruleset").Output()
	if err != nil {
		f.Why = "its rules cannot be read; if machines get no answer, it must let UDP 67, 69, 4011 and TCP 80, 4443 in"
		return f
	}
	if chain := dropping(string(out), ifname); chain != "" {
		f.OK, f.Why = false, fmt.Sprintf("chain %s drops what no rule allows, and none names UDP 67", chain)
		f.Fix = fmt.Sprintf("nft insert rule %s iifname %s meta l4proto { tcp, udp } accept", chain, ifname)
	}
	return f
}

// dropping returns the family, table and chain of an input chain whose policy is drop and which names neither the
// interface nor the DHCP port.
func dropping(ruleset, ifname string) string {
	var table, chain string
	var input, open bool
	for line := range strings.Lines(ruleset) {
		w := strings.Fields(line)
		switch {
		case len(w) > 2 && w[0] == "table":
			table = w[1] + " " + w[2]
		case len(w) > 1 && w[0] == "chain":
			chain, input, open = w[1], false, false
		case strings.Contains(line, "hook input") && strings.Contains(line, "policy drop"):
			input = true
		case slices.Contains(w, `"`+ifname+`"`) && slices.Contains(w, "accept"), strings.Contains(line, "dport") && (slices.Contains(w, "67") || slices.Contains(w, "67,") || slices.Contains(w, "bootps")):
			open = true
		case len(w) == 1 && w[0] == "}" && input:
			if !open {
				return table + " " + chain
			}
			input = false
		}
	}
	return ""
}

// clause is what an error says, without the fix behind its semicolon and the name of its kind; fix is that fix.
func clause(err error) string {
	why, _, _ := strings.Cut(sentence(err), "; ")
	return why
}

func fix(err error) string {
	_, fix, _ := strings.Cut(sentence(err), "; ")
	return fix
}

func sentence(err error) string {
	text := err.Error()
	if kind := lab.FailingOf(err).Kind; kind != nil {
		text = strings.TrimSuffix(text, ": "+kind.Error())
	}
	return text
}
