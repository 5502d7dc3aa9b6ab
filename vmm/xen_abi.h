/* Xen's public interface headers (Debian: libxen-dev), at the newest version. */
#ifndef RAMET_VMM_XEN_ABI_H
#define RAMET_VMM_XEN_ABI_H

#define __XEN_INTERFACE_VERSION__ 0x00040e00

#include <xen/callback.h>
#include <xen/event_channel.h>
#include <xen/features.h>
#include <xen/grant_table.h>
#include <xen/io/console.h>
#include <xen/memory.h>
#include <xen/physdev.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/version.h>
#include <xen/xen.h>

#endif
