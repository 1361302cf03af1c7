package netboot

// What the tests in namespaces, which must not be in this package (they import lab/labtest), take from it.
var (
	NewMemory  = newMemory
	OpenLab    = openLab
	Inspect    = inspect
	Say        = say
	Start      = start
	Pinned     = pinned
	Kernel     = kernelBytes
	TestChunks = func() ChunkSource { return &store{} }
	TestBytes  = testPayload
	TestCert   = testCert
)

// DHCPMode is what the server does about DHCP just now.
func (s *Server) DHCPMode() string { return s.dhcpMode() }
