// leader NAME COMMAND...: wait to become the leader of the cluster, then run
// COMMAND, which is killed if the lock is lost. Who leads can be read anywhere.
//
//	$ go build -o build/leader examples/leader.go
//	$ build/leader alice sleep 100 &
//	alice leads
//	$ cat /dlm/web/leader
//	alice
//	$ build/leader bob sleep 100 &
//	$ kill %1
//	leader: alice steps down
//	bob leads
//	$ echo 1 >/dlm/web/.force; rmdir /dlm/web
//	leader: bob has lost the lock
//
// $LOCKSPACE is the directory of the lockspace, /dlm/web if it is not set.
package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// flock takes the lock exclusively, and goes on waiting after the signals that the runtime sends to its own threads.
func flock(file *os.File) error {
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX)
		if err != syscall.EINTR {
			return os.NewSyscallError("flock", err)
		}
	}
}

// watch closes the channel when the lock of this file is lost.
func watch(file *os.File) (<-chan struct{}, error) {
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// No events: EPOLLERR and EPOLLHUP are told always.
	err = syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, int(file.Fd()), &syscall.EpollEvent{})
	if err != nil {
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	lost := make(chan struct{})
	go func() {
		events := make([]syscall.EpollEvent, 1)
		for {
			if _, err := syscall.EpollWait(epoll, events, -1); err != syscall.EINTR {
				close(lost)
				return
			}
		}
	}()
	return lost, nil
}

// publish writes the name into the value block; Sync shows it to others while we hold the lock.
func publish(file *os.File, name string) error {
	if err := file.Truncate(0); err != nil {
		return err
	}
	if _, err := file.WriteAt([]byte(name+"\n"), 0); err != nil {
		return err
	}
	return file.Sync()
}

// run starts the command and kills it, with all that it has started, when the lock is lost or when we are told to end.
func run(name string, command []string, lock *os.File) error {
	lost, err := watch(lock)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	fmt.Println(name, "leads")

	job := exec.Command(command[0], command[1:]...)
	job.Stdin, job.Stdout, job.Stderr = os.Stdin, os.Stdout, os.Stderr
	job.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	job.ExtraFiles = []*os.File{lock} // nobody else leads before it has ended, even if this program is killed
	if err := job.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- job.Wait() }()

	var why string
	select {
	case err := <-ended:
		return err
	case <-lost:
		why = "has lost the lock"
	case <-stop:
		why = "steps down"
	}
	syscall.Kill(-job.Process.Pid, syscall.SIGKILL)
	<-ended
	return fmt.Errorf("%s %s", name, why)
}

func lead(path, name string, command []string) error {
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := flock(lock); err != nil {
		return err
	}
	if err := publish(lock, name); err != nil {
		return err
	}
	return run(name, command, lock)
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("leader: ")
	if len(os.Args) < 3 {
		log.Fatal("usage: leader NAME COMMAND...")
	}
	lockspace := os.Getenv("LOCKSPACE")
	if lockspace == "" {
		lockspace = "/dlm/web"
	}
	if err := lead(lockspace+"/leader", os.Args[1], os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}
