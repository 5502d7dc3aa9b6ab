/* What the host and the guest agent say to each other: frames over a reliable
 * byte stream (see channel.h; in tests a socketpair).
 *
 * Every frame is a struct frame_header and `length` bytes of payload: the
 * fixed struct of its type, then variable data. All integers are little
 * endian. Either side ends the connection on a malformed frame: bad magic,
 * length above FRAME_PAYLOAD_MAX or below its type's fixed struct, a type that
 * the direction does not allow.
 *
 * Requests carry an id chosen by the host (never 0), unique among those
 * outstanding; every answer repeats it. A request is answered exactly once by
 * its reply type or by MSG_ERROR; MSG_EXEC is answered by any number of
 * MSG_OUTPUT and then one MSG_EXIT (or MSG_ERROR if it never started).
 *
 * Flow control: the agent sends at most the granted credit of MSG_OUTPUT data
 * bytes per exec (EXEC_CREDIT_INITIAL, extended by MSG_CREDIT) and stops
 * reading the command's pipes when it is used up. MSG_TREE works the same way:
 * MSG_TREE_ENTRIES are sent while TREE_PAGE_MAX of its credit are left, and
 * MSG_CANCEL ends it with MSG_ERROR. File data moves in request/response pairs,
 * so the host sets the pace. */
#ifndef RAMET_GUEST_PROTOCOL_H
#define RAMET_GUEST_PROTOCOL_H

#include <stdint.h>

#define PROTOCOL_VERSION 1u
#define FRAME_MAGIC 0x5246u /* "FR" */
#define FRAME_PAYLOAD_MAX (256u * 1024)
#define FILE_CHUNK_MAX (128u * 1024)
#define PATH_LENGTH_MAX 4095u
#define CODE_LENGTH_MAX (4u * 1024 * 1024) /* sent in MSG_EXEC_DATA pieces */
#define EXEC_CREDIT_INITIAL (256u * 1024)
#define EXEC_QUEUE_MAX 64u /* waiting execs per sandbox; more are refused with EBUSY */
#define FILE_HANDLES_MAX 64u
#define TREE_PAGE_MAX (32u * 1024) /* payload of one MSG_TREE_ENTRIES */
#define TREE_ROOTS_MAX 64u
#define TREES_MAX 16u /* walks at once; more are refused with EBUSY */

struct frame_header {
	uint16_t magic;
	uint8_t version;
	uint8_t type; /* enum message_type */
	uint32_t length;
	uint32_t id;
};

enum message_type {
	/* Agent to host, unasked, first frame of a connection. */
	MSG_HELLO = 1,

	/* Host to agent. Reply in brackets. */
	MSG_EXEC = 16,      /* [MSG_OUTPUT* MSG_EXIT] struct msg_exec */
	MSG_EXEC_DATA = 17, /* no reply: the next piece of the code; the last completes it */
	MSG_CREDIT = 18,    /* no reply: struct msg_credit, for the exec or walk `id` */
	MSG_CANCEL = 19,    /* no reply: interrupt the exec or walk `id`, or drop it from the queue */
	MSG_FILE_OPEN = 20, /* [MSG_FILE_OPENED] struct msg_file_open + path */
	MSG_FILE_READ = 21, /* [MSG_FILE_DATA] struct msg_file_read */
	MSG_FILE_WRITE = 22,  /* [MSG_OK] struct msg_file_write + data */
	MSG_FILE_CLOSE = 23,  /* [MSG_FILE_CLOSED] struct msg_file_close */
	MSG_FILE_LIST = 24,   /* [MSG_FILE_ENTRIES*, the last one with count 0] path */
	MSG_RESEED = 25,      /* [MSG_OK] struct msg_reseed + hostname + entropy */
	MSG_PING = 26,        /* [MSG_OK] */
	MSG_SHUTDOWN = 27,    /* [MSG_OK], then the guest powers off */
	MSG_RECLAIM = 29,     /* [MSG_RECLAIMED] free memory back to the host */
	MSG_TREE = 28,        /* [MSG_TREE_ENTRIES*, the last one with count 0] struct msg_tree */

	/* Agent to host, answers. */
	MSG_OK = 64,
	MSG_ERROR = 65,       /* struct msg_error + text */
	MSG_OUTPUT = 66,      /* struct msg_output + data */
	MSG_EXIT = 67,        /* struct msg_exit */
	MSG_FILE_OPENED = 68, /* struct msg_file_opened */
	MSG_FILE_DATA = 69,   /* data; shorter than asked only at end of file */
	MSG_FILE_CLOSED = 70, /* struct msg_file_closed */
	MSG_FILE_ENTRIES = 71, /* struct msg_file_entries + entries */
	MSG_RECLAIMED = 73,    /* struct msg_reclaimed */
	MSG_TREE_ENTRIES = 72, /* struct msg_tree_entries + entries */
};

struct msg_hello {
	uint32_t protocol; /* PROTOCOL_VERSION */
	uint32_t flags;    /* 0 */
	uint64_t boot_ns;  /* CLOCK_BOOTTIME when the agent was ready */
	char kernel[64];   /* uname -r, NUL-terminated */
	char agent[32];    /* the agent's version, NUL-terminated */
};

enum exec_language { EXEC_PYTHON = 1, EXEC_BASH = 2 };

struct msg_exec {
	uint32_t language;     /* enum exec_language */
	uint32_t timeout_ms;   /* 0: none */
	uint64_t output_limit; /* bytes of stdout + stderr passed on before the cut */
	uint32_t code_length;  /* bytes of code to come in MSG_EXEC_DATA; may be 0 */
	uint32_t reserved;     /* 0 */
};

struct msg_credit {
	uint32_t bytes; /* added to the exec's credit */
};

enum output_stream {
	OUTPUT_STDOUT = 1,
	OUTPUT_STDERR = 2,
	OUTPUT_RESULT = 3, /* repr of a trailing expression's value, without newline */
	OUTPUT_NOTICE = 4, /* the agent's own words, e.g. that output was cut */
};

struct msg_output {
	uint32_t stream;   /* enum output_stream */
	uint32_t reserved; /* 0 */
	uint64_t time_ns;  /* since the exec started running */
};

enum exit_flags {
	EXIT_TIMED_OUT = 1u << 0,      /* the timeout struck */
	EXIT_INTERRUPTED = 1u << 1,    /* stopped by KeyboardInterrupt / SIGINT */
	EXIT_REPL_RESTARTED = 1u << 2, /* a new interpreter was started */
	EXIT_STATE_LOST = 1u << 3,     /* the variables of earlier calls are gone */
	EXIT_OUTPUT_CUT = 1u << 4,     /* output beyond the limit was dropped */
	EXIT_CANCELLED = 1u << 5,      /* MSG_CANCEL ended or dequeued it */
};

struct msg_exit {
	int32_t exit_code; /* 0..255; 128 + n after signal n; 124 after a timeout */
	uint32_t flags;    /* enum exit_flags */
	uint64_t queue_ns; /* waited behind earlier execs */
	uint64_t run_ns;   /* from start to end inside the guest */
	uint64_t dropped;  /* bytes of output cut */
};

struct msg_error {
	uint32_t code; /* positive errno */
};

enum file_open_flags { FILE_OPEN_READ = 0, FILE_OPEN_WRITE = 1 };

/* FILE_OPEN_WRITE writes to a temporary name beside the target (parents are
 * made) and renames it over the target at a successful close. */
struct msg_file_open {
	uint32_t flags; /* enum file_open_flags */
	uint32_t mode;  /* permission bits for a new file; 0: 0644 */
};

struct msg_file_opened {
	uint32_t handle;
	uint32_t mode;
	uint64_t size; /* FILE_OPEN_READ: bytes now; UINT64_MAX when unknown */
};

struct msg_file_read {
	uint32_t handle;
	uint32_t length; /* <= FILE_CHUNK_MAX */
	uint64_t offset;
};

struct msg_file_write {
	uint32_t handle;
	uint32_t reserved;
	uint64_t offset; /* must be where the last write ended */
};

/* Write handles: the agent compares size and hash with what it wrote; on a
 * mismatch, or when `abandon` is set, the target is left as it was. */
struct msg_file_close {
	uint32_t handle;
	uint32_t abandon;
	uint64_t size;
	uint64_t xxh3; /* XXH3-64 of the whole content */
};

/* Read handles: hash and size of everything that was read, in order. */
struct msg_file_closed {
	uint64_t size;
	uint64_t xxh3;
};

struct msg_file_entries {
	uint32_t count; /* entries in this frame; 0 ends the listing */
	uint32_t reserved;
};

enum file_kind { FILE_REGULAR = 1, FILE_DIRECTORY = 2, FILE_SYMLINK = 3, FILE_OTHER = 4 };

struct file_entry { /* followed by name_length bytes of name, no padding */
	uint64_t size;
	int64_t mtime_ns;
	uint32_t mode;
	uint16_t kind; /* enum file_kind */
	uint16_t name_length;
};

/* A walk through everything at and below some paths, with a hash of each
 * content. Paths are absolute, each ends with NUL; one that does not exist has
 * no entries. Symbolic links are not followed, except on the way to a path.
 * Mounts are entered when they hold files of the guest's (tmpfs, ext4, ...) and
 * not when they are virtual (proc, sysfs, devtmpfs, ...); a path that begins in
 * a virtual one is an error, EINVAL. The agent's own run directory is left out
 * where a walk comes across it.
 *
 * Paths are walked in the order given and what is below each depth first: an
 * entry, then what is below it, names by their bytes. */
struct msg_tree {
	uint32_t root_count; /* 1..TREE_ROOTS_MAX */
	uint32_t credit;     /* bytes of MSG_TREE_ENTRIES to begin with */
};

struct msg_tree_entries {
	uint32_t count; /* entries in this frame; 0 ends the walk */
	uint32_t reserved;
};

enum tree_flags { TREE_UNREADABLE = 1u << 0 /* the content could not be read */ };

/* The hash is XXH3-128, low half first: of a symbolic link's target; of a
 * device's number; of a regular file's blocks of TREE_BLOCK bytes that are not
 * all zeros, each with its number (uint64_t) before it, so that holes need not
 * be read. Of everything else it is 0. */
struct tree_entry { /* followed by path_length bytes of path, no padding */
	uint64_t size;  /* of a regular file: as far as it was hashed; else 0 */
	int64_t mtime_ns;
	uint64_t hash[2];
	uint32_t mode; /* with the type, as in stat(2) */
	uint32_t uid, gid;
	uint16_t path_length;
	uint16_t flags; /* enum tree_flags */
};

#define TREE_BLOCK (64u * 1024)

struct msg_reseed {
	uint64_t wall_ns;         /* CLOCK_REALTIME to set; 0: leave */
	uint8_t generation[16];   /* UUID of this incarnation */
	uint32_t hostname_length; /* <= 64 */
	uint32_t entropy_length;  /* <= 512; credited to the kernel's pool */
	uint32_t flags;           /* enum reseed_flags */
	uint32_t fork_number;     /* 1..n: which child of a fork this is; 0: none */
};

enum reseed_flags {
	RESEED_PYTHON = 1u << 0, /* also reseed the REPL's random modules */
	RESEED_TOKEN = 1u << 1,  /* RESEED_TOKEN_SIZE bytes follow the entropy: this guest's secret */
	RESEED_FORK = 1u << 2,   /* fork_number counts, and callbacks of user code are called */
};

#define RESEED_TOKEN_SIZE 16u

struct msg_reclaimed {
	uint64_t pages;  /* of 4 KiB that the host has got back */
	uint64_t run_ns; /* from the request to here */
};

_Static_assert(sizeof(struct frame_header) == 12, "wire ABI");
_Static_assert(sizeof(struct msg_exec) == 24, "wire ABI");
_Static_assert(sizeof(struct msg_exit) == 32, "wire ABI");
_Static_assert(sizeof(struct file_entry) == 24, "wire ABI");
_Static_assert(sizeof(struct tree_entry) == 48, "wire ABI");

#endif
