/* A trial of BPF: see bpf_check.h. */
#include "bpf/bpf_check.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/cleanup.h"

#define PACKET_SIZE 64
#define VERDICT     7 /* any number that a failed run would not return */

static bool jit_enabled(void)
{
	cleanup_file FILE *file = fopen("/proc/sys/net/core/bpf_jit_enable", "re");
	int value = 0;

	return file && fscanf(file, "%d", &value) == 1 && value > 0;
}

int bpf_check(struct bpf_support *support, struct ramet_err *err)
{
	const struct bpf_insn program[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = VERDICT },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	unsigned char packet[PACKET_SIZE] = { 0 };
	LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet, .data_size_in = sizeof(packet));
	cleanup_close int fd = -1;
	int ret;

	fd = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "ramet_check", "GPL", program,
			   sizeof(program) / sizeof(program[0]), NULL);
	if (fd < 0)
		return err_errno(err, -fd, "cannot load a BPF program");
	ret = bpf_prog_test_run_opts(fd, &run);
	if (ret < 0)
		return err_errno(err, -ret, "cannot run a BPF program");
	if (run.retval != VERDICT)
		return err_set(err, EIO, "a BPF program returned %u where it should return %d",
			       run.retval, VERDICT);
	*support = (struct bpf_support){
		.jit = jit_enabled(),
		.btf = !access("/sys/kernel/btf/vmlinux", R_OK),
	};
	return 0;
}
