/* The bytes of the in-guest fast path, to be copied to HV_PAGE_SHIM. */
#ifndef RAMET_VMM_SHIM_BLOB_H
#define RAMET_VMM_SHIM_BLOB_H

#include <stdint.h>

extern const uint8_t shim_software_start[], shim_software_end[];
extern const uint8_t shim_hardware_start[], shim_hardware_end[];

#endif
