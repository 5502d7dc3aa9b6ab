/* Privileged instructions of the guest kernel: see emulate.h. */
#include "vmm/emulate.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "vmm/cpuid.h"
#include "vmm/evtchn.h"
#include "vmm/mmu.h"

#define INSN_MAX 15

struct insn {
	uint8_t bytes[INSN_MAX];
	size_t length; /* fetched */
	size_t at;     /* of the opcode */
	uint8_t rex;
	bool operand16;
};

static uint64_t *reg_get(struct kvm_regs *r, unsigned int index)
{
	__u64 *const regs[16] = { &r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp,
				  &r->rsi, &r->rdi, &r->r8,  &r->r9,  &r->r10, &r->r11,
				  &r->r12, &r->r13, &r->r14, &r->r15 };

	return (uint64_t *)regs[index & 15];
}

static bool insn_fetch(struct machine *m, struct insn *in)
{
	memset(in, 0, sizeof(*in));
	in->length = mmu_fetch(m, m->vcpu.regs.rip, in->bytes, sizeof(in->bytes));
	for (; in->at < in->length; in->at++) {
		uint8_t b = in->bytes[in->at];

		if (b == 0x66)
			in->operand16 = true;
		else if (b != 0xf2 && b != 0xf3 && b != 0x2e && b != 0x3e)
			break;
	}
	if (in->at < in->length && (in->bytes[in->at] & 0xf0) == 0x40)
		in->rex = in->bytes[in->at++];
	/* Zero bytes behind the fetched ones make a short fetch an unknown opcode. */
	return in->at + 3 <= INSN_MAX && in->at < in->length;
}

static bool msr_read(struct machine *m, uint32_t msr, uint64_t *value)
{
	*value = 0;
	switch (msr) {
	case 0xc0000080: /* EFER: SCE LME LMA NX */
		*value = 0xd01;
		return true;
	case 0xc0000100:
		return !m->ops->base_get(m, BASE_FS, value);
	case 0xc0000101:
		return !m->ops->base_get(m, BASE_GS_KERNEL, value);
	case 0xc0000102:
		return !m->ops->base_get(m, BASE_GS_USER, value);
	case 0x10: /* TSC */
		*value = __rdtsc();
		return true;
	case 0x277: /* PAT, as Xen sets it */
		*value = 0x050100070406ull;
		return true;
	case 0x1b: /* APIC base: enabled, boot processor */
		*value = 0xfee00900;
		return true;
	case 0x1a0: /* MISC_ENABLE: fast strings */
		*value = 1;
		return true;
	case 0xc0010015: /* HWCR: TSC counts at P0 */
		*value = 1ull << 24;
		return true;
	case 0x17: /* platform id and revision, features and errata: nothing set */
	case 0x8b:
	case 0x48:
	case 0x10a:
	case 0x122:
	case 0x140:
	case 0xcd:
	case 0xfe:
	case 0x2ff:
	case 0xc001001f:
	case 0xc0011005:
	case 0xc0011020:
	case 0xc0011022:
	case 0xc0011029:
		return true;
	default:
		return false;
	}
}

/* Writes to what does not exist here are accepted and forgotten, as Xen does
 * for the registers Linux tunes at boot. */
static void msr_write(struct machine *m, uint32_t msr, uint64_t value)
{
	if (msr == 0xc0000100)
		(void)m->ops->base_set(m, BASE_FS, value);
	else if (msr == 0xc0000101)
		(void)m->ops->base_set(m, BASE_GS_KERNEL, value);
	else if (msr == 0xc0000102)
		(void)m->ops->base_set(m, BASE_GS_USER, value);
}

static bool emulate_xsetbv(struct machine *m)
{
	struct kvm_regs *r = &m->vcpu.regs;
	struct kvm_xcrs xcrs = { .nr_xcrs = 1 };
	uint64_t value = (uint32_t)r->rax | (r->rdx << 32);

	if ((uint32_t)r->rcx != 0 || (value & ~m->xcr0) || !(value & 1))
		return false;
	xcrs.xcrs[0].value = value;
	return ioctl(m->vcpu_fd, KVM_SET_XCRS, &xcrs) == 0;
}

static bool control_register(struct machine *m, const struct insn *in, bool write)
{
	uint8_t modrm = in->bytes[in->at + 2];
	unsigned int cr = ((modrm >> 3) & 7u) | ((in->rex & 4u) << 1);
	uint64_t *reg = reg_get(&m->vcpu.regs, (modrm & 7u) | ((in->rex & 1u) << 3));

	if (write)
		return true; /* fixed by the platform */
	switch (cr) {
	case 0:
		*reg = 0x80050033;
		return true;
	case 2:
		*reg = vcpu_info_get(m)->arch.cr2;
		return true;
	case 3:
		*reg = m->vcpu.kernel_cr3;
		return true;
	case 4: /* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
		*reg = 0x40620;
		return true;
	case 8:
		*reg = 0;
		return true;
	default:
		return false;
	}
}

static bool debug_register(struct machine *m, const struct insn *in, bool write)
{
	uint8_t modrm = in->bytes[in->at + 2];
	unsigned int dr = (modrm >> 3) & 7u;
	uint64_t *reg = reg_get(&m->vcpu.regs, (modrm & 7u) | ((in->rex & 1u) << 3));

	if (!write)
		*reg = m->pv.debugreg[dr];
	else if (dr >= 6)
		m->pv.debugreg[dr] = *reg;
	return true;
}

/* Two-byte opcodes; sets *length behind the opcode's position. */
static bool emulate_0f(struct machine *m, const struct insn *in, size_t *length)
{
	struct kvm_regs *r = &m->vcpu.regs;
	uint64_t value;

	*length = 2;
	switch (in->bytes[in->at + 1]) {
	case 0x32: /* rdmsr */
		if (!msr_read(m, (uint32_t)r->rcx, &value))
			return false;
		r->rax = (uint32_t)value;
		r->rdx = value >> 32;
		return true;
	case 0x30: /* wrmsr */
		msr_write(m, (uint32_t)r->rcx, (uint32_t)r->rax | (r->rdx << 32));
		return true;
	case 0x06: /* clts */
	case 0x08: /* invd */
	case 0x09: /* wbinvd */
		return true;
	case 0x01:
		*length = 3;
		return in->bytes[in->at + 2] == 0xd1 && emulate_xsetbv(m);
	case 0x20:
	case 0x22:
		*length = 3;
		return control_register(m, in, in->bytes[in->at + 1] == 0x22);
	case 0x21:
	case 0x23:
		*length = 3;
		return debug_register(m, in, in->bytes[in->at + 1] == 0x23);
	default:
		return false;
	}
}

/* There are no ports: reads give all ones, except the PIT's counter, whose
 * calibration loops in Linux would wait for it to change. */
static void port_read(struct machine *m, const struct insn *in, bool byte, uint16_t port)
{
	struct kvm_regs *r = &m->vcpu.regs;

	if (byte)
		r->rax = (r->rax & ~0xffull) | (port == 0x42 ? 0 : 0xff);
	else if (in->operand16)
		r->rax |= 0xffff;
	else
		r->rax = 0xffffffff;
}

bool emulate_privileged(struct machine *m)
{
	struct kvm_regs *r = &m->vcpu.regs;
	struct insn in;
	size_t length = 1;
	uint8_t op;

	if (!insn_fetch(m, &in))
		return false;
	op = in.bytes[in.at];
	switch (op) {
	case 0x0f:
		if (!emulate_0f(m, &in, &length))
			return false;
		break;
	case 0xf4: /* hlt */
		break;
	case 0xfa: /* cli */
		vcpu_info_set_mask(m, 1);
		break;
	case 0xfb: /* sti */
		vcpu_info_set_mask(m, 0);
		break;
	case 0xe4: /* in al, imm8 */
	case 0xe5:
		port_read(m, &in, op == 0xe4, in.bytes[in.at + 1]);
		length = 2;
		break;
	case 0xec: /* in al, dx */
	case 0xed:
		port_read(m, &in, op == 0xec, (uint16_t)r->rdx);
		break;
	case 0xe6: /* out imm8, al */
	case 0xe7:
		length = 2;
		break;
	case 0xee: /* out dx, al */
	case 0xef:
		break;
	default:
		return false;
	}
	if (in.at + length > in.length)
		return false;
	r->rip += in.at + length;
	return true;
}

bool emulate_prefixed_cpuid(struct machine *m)
{
	static const uint8_t prefix[] = { 0x0f, 0x0b, 'x', 'e', 'n', 0x0f, 0xa2 };
	struct kvm_regs *r = &m->vcpu.regs;
	struct cpuid_result result;
	uint8_t bytes[sizeof(prefix)];

	if (mmu_fetch(m, r->rip, bytes, sizeof(bytes)) != sizeof(bytes) ||
	    memcmp(bytes, prefix, sizeof(prefix)))
		return false;
	cpuid_query(m, (uint32_t)r->rax, (uint32_t)r->rcx, &result);
	r->rax = result.eax;
	r->rbx = result.ebx;
	r->rcx = result.ecx;
	r->rdx = result.edx;
	r->rip += sizeof(prefix);
	return true;
}
