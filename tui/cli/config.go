package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"carte/lab"
)

// ConfigName is the settings file's name in the state folder. It need not be there.
const ConfigName = "config.toml"

// LabConfig is how a lab is served. Flags of carte serve go before the file.
type LabConfig struct {
	Name      string `toml:"name"`       // of the lab, for the screen; empty: this computer's
	Interface string `toml:"interface"`  // PXE is answered here and nowhere else; empty: nowhere
	DHCP      string `toml:"dhcp"`       // auto, server, proxy, off
	Pool      string `toml:"pool"`       // FIRST-LAST
	Listen    string `toml:"listen"`     // address and port of HTTP
	ListenAPI string `toml:"listen_api"` // and of the agents' API
	BootFiles string `toml:"boot_files"` // folder whose files go before the embedded kernel, agent and iPXE
}

// configFile is the whole file.
type configFile struct {
	Lab LabConfig `toml:"lab"`
}

// readConfig reads the settings of a state folder. An error names the line.
func readConfig(state string) (LabConfig, error) {
	file := filepath.Join(state, ConfigName)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return LabConfig{}, nil
	}
	if err != nil {
		return LabConfig{}, fmt.Errorf("settings: %w", err)
	}
	return parseConfig(file, text)
}

// parseConfig reads the text of a settings file.
func parseConfig(file string, text []byte) (LabConfig, error) {
	var all configFile
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&all)
	var strict *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		return LabConfig{}, fmt.Errorf("%s has settings that carte does not know:\n%s\nbelow [lab] there may be %s: %w", file, strict.String(), strings.Join(settingNames(), ", "), lab.ErrInvalid)
	case errors.As(err, &wrong):
		return LabConfig{}, fmt.Errorf("%s: %v:\n%s: %w", file, wrong, wrong.String(), lab.ErrInvalid)
	case err != nil:
		return LabConfig{}, fmt.Errorf("%s: %v: %w", file, err, lab.ErrInvalid)
	}
	return all.Lab, nil
}

// settingNames are the names that the file may have below [lab].
func settingNames() (names []string) {
	for f := range reflect.TypeFor[LabConfig]().Fields() {
		names = append(names, f.Tag.Get("toml"))
	}
	return names
}

// check refuses values that cannot be, by the name of the setting.
func (c LabConfig) check() error {
	switch c.DHCP {
	case "", "auto", "server", "proxy", "off":
	default:
		return fmt.Errorf("dhcp = %q is none of auto, server, proxy, off: %w", c.DHCP, lab.ErrInvalid)
	}
	if _, err := c.Addresses(); err != nil {
		return err
	}
	for name, at := range map[string]string{"listen": c.Listen, "listen_api": c.ListenAPI} {
		if at == "" {
			continue
		}
		host, port, err := net.SplitHostPort(at)
		_, wrong := strconv.ParseUint(port, 10, 16)
		if _, bad := netip.ParseAddr(host); err != nil || wrong != nil || host != "" && host != "localhost" && bad != nil {
			return fmt.Errorf("%s = %q is not ADDRESS:PORT, as in 10.77.0.1:8080: %w", name, at, lab.ErrInvalid)
		}
	}
	const where = "it needs to know where: --interface eth1, or in " + ConfigName + " below [lab]: interface = \"eth1\""
	switch {
	case c.Name != "" && !labName.MatchString(c.Name):
		return fmt.Errorf("name = %q: a lab's name has letters, digits and . _ - in it, at most 63, and begins with a letter or a digit: %w", c.Name, lab.ErrInvalid)
	case c.Interface == "" && (c.DHCP == "server" || c.DHCP == "proxy"):
		return fmt.Errorf("dhcp = %q: %s: %w", c.DHCP, where, lab.ErrInvalid)
	case c.Interface == "" && c.Pool != "":
		return fmt.Errorf("pool = %q: %s: %w", c.Pool, where, lab.ErrInvalid)
	}
	return nil
}

var labName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// bootFolder refuses boot files in a folder that is not there.
func (c LabConfig) bootFolder() error {
	if c.BootFiles == "" {
		return nil
	}
	st, err := os.Stat(c.BootFiles)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the folder of boot files, %s: %w", c.BootFiles, lab.ErrNotFound)
	case err != nil:
		return fmt.Errorf("the folder of boot files: %w", err)
	case !st.IsDir():
		return fmt.Errorf("boot files are in a folder, and %s is a file: %w", c.BootFiles, lab.ErrInvalid)
	}
	return nil
}

// settingsFinding is what the doctor says about the settings file of a state folder; none where there is no file.
func settingsFinding(state string) []lab.Finding {
	file := filepath.Join(state, ConfigName)
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := settings(state, LabConfig{}); err != nil {
		return []lab.Finding{{What: "settings", Must: true, Why: words(err), Fix: "mend " + file}}
	}
	return []lab.Finding{{What: "settings", OK: true, Must: true, Why: file}}
}

// Addresses reads the pool, zero when there is none.
func (c LabConfig) Addresses() (p lab.Pool, err error) {
	if c.Pool == "" {
		return p, nil
	}
	wrong := func(why string) (lab.Pool, error) {
		return lab.Pool{}, fmt.Errorf("pool = %q: %s; as in 10.77.0.100-10.77.0.199: %w", c.Pool, why, lab.ErrInvalid)
	}
	first, last, ok := strings.Cut(c.Pool, "-")
	if !ok {
		return wrong("it is not FIRST-LAST")
	}
	if p.First, err = netip.ParseAddr(strings.TrimSpace(first)); err != nil || !p.First.Is4() {
		return wrong(fmt.Sprintf("%q is not an IPv4 address", first))
	}
	if p.Last, err = netip.ParseAddr(strings.TrimSpace(last)); err != nil || !p.Last.Is4() {
		return wrong(fmt.Sprintf("%q is not an IPv4 address", last))
	}
	if p.Last.Less(p.First) {
		return wrong("the last comes before the first")
	}
	return p, nil
}

// over puts what is set in c before what other says.
func (c LabConfig) over(other LabConfig) LabConfig {
	return LabConfig{
		Name: or(c.Name, other.Name), Interface: or(c.Interface, other.Interface), DHCP: or(c.DHCP, other.DHCP), Pool: or(c.Pool, other.Pool),
		Listen: or(c.Listen, other.Listen), ListenAPI: or(c.ListenAPI, other.ListenAPI), BootFiles: or(c.BootFiles, other.BootFiles),
	}
}
