// The smallest system there is: it says hello, reads a line, and powers off.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	fmt.Printf("hello from pid %d\n", os.Getpid())
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	fmt.Printf("read %q %v\n", strings.TrimSpace(line), err)
	fmt.Println("power off:", syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
	select {}
}
