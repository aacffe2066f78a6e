// Package systemd speaks with the service manager that started a daemon: it reports the state of a service
// of Type=notify (sd_notify(3)), and takes the sockets that systemd has opened for it (sd_listen_fds(3)).
// Without systemd it does nothing. The daemons of cmd call it; start at NewNotifier and Listener.
package systemd
