/* The in-guest fast path as bytes of the worker (vmm/shim/shim_blob.h). */
	.section .rodata
	.balign 16
	.globl shim_software_start, shim_software_end, shim_hardware_start, shim_hardware_end
shim_software_start:
	.incbin "software.bin"
shim_software_end:
	.balign 16
shim_hardware_start:
	.incbin "hardware.bin"
shim_hardware_end:
	.section .note.GNU-stack, "", @progbits
