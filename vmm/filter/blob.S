/* The system call filter as bytes of the worker (vmm/filter/filter.h). */
	.section .rodata
	.balign 16
	.globl filter_start, filter_end
filter_start:
	.incbin "filter.bpf"
filter_end:
	.section .note.GNU-stack, "", @progbits
