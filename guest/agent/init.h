/* What PID 1 does before and after it serves. */
#ifndef RAMET_GUEST_INIT_H
#define RAMET_GUEST_INIT_H

/* Mounts the kernel's file systems, opens the console, sets limits and the
 * host name, brings the loopback interface up, loads the modules. Returns 0;
 * or -errno after a line on the console, when the guest is of no use. */
int init_setup(void);

/* Writes file systems back and switches the machine off. Does not return. */
void init_power_off(void) __attribute__((noreturn));

#endif
