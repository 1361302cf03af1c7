package shim

import (
	"testing"

	"carte/lab"
)

func TestOffered(t *testing.T) {
	for _, x := range []struct {
		clause, system string
		want           bool
	}{
		{string(lab.Lazy), "linux", true},
		{string(lab.Lazy), "freebsd", false},
		{string(lab.Results), "openbsd", true},
		{string(lab.Autostart), "netbsd", true},
		{lab.ClauseWritten, "freebsd", false},
		{string(lab.Sealed), "freebsd", true}, // not a shim's to keep
	} {
		if got := Offered(x.clause, x.system); got != x.want {
			t.Errorf("Offered(%s, %s) = %v, want %v", x.clause, x.system, got, x.want)
		}
	}
}

func TestFromCommandLine(t *testing.T) {
	task, err := FromCommandLine("console=ttyS0 carte.server=https://10.0.0.1:7443 carte.pin=ab carte.token=1.2.x quiet")
	if err != nil || task.Server != "https://10.0.0.1:7443" || task.Pin != "ab" || task.Token != "1.2.x" {
		t.Errorf("%+v, %v", task, err)
	}
	if _, err := FromCommandLine("root=/dev/sda1"); err == nil {
		t.Error("a command line without a server is a task")
	}
}
