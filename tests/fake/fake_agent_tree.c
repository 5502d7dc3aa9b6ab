/* The scripted agent: walks through files that do not exist. See fake_agent.h. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fake/fake_agent.h"
#include "tests/fake/fake_agent_state.h"

#define PAGE_ENTRIES 100
#define VARIANT_PAGE 7 /* of guest memory: its first byte makes guests differ */

static struct fake_walk *walk_find(struct fake_agent *agent, uint32_t id)
{
	for (size_t i = 0; i < FAKE_WALKS; i++)
		if (agent->walks[i].id == id)
			return &agent->walks[i];
	return NULL;
}

static void put(struct fake_walk *walk, const struct tree_entry *given, const char *path)
{
	struct tree_entry entry = *given;
	uint8_t *at;

	entry.path_length = (uint16_t)strlen(path);
	if (walk->length + sizeof(entry) + entry.path_length > walk->room) {
		walk->room = 2 * walk->room + PATH_LENGTH_MAX;
		walk->bytes = realloc(walk->bytes, walk->room);
		if (!walk->bytes)
			abort();
	}
	at = walk->bytes + walk->length;
	memcpy(at, &entry, sizeof(entry));
	memcpy(at + sizeof(entry), path, entry.path_length);
	walk->length += sizeof(entry) + entry.path_length;
	walk->left++;
}

static void put_file(struct fake_walk *walk, const char *path, uint64_t hash)
{
	const struct tree_entry entry = { .size = 5, .hash = { hash, 1 }, .mode = S_IFREG | 0644 };

	put(walk, &entry, path);
}

static void put_directory(struct fake_walk *walk, const char *path)
{
	put(walk, &(struct tree_entry){ .mode = S_IFDIR | 0755 }, path);
}

/* Something of every kind, most of it not the same in variants. */
static void put_mixed(struct fake_walk *walk, unsigned int variant)
{
	struct tree_entry entry = { .size = 5, .mode = S_IFREG | 0644 };
	char path[32];

	put_directory(walk, "/mixed");
	put_file(walk, "/mixed/a", 1);
	put_file(walk, "/mixed/b", variant);
	(void)snprintf(path, sizeof(path), "/mixed/c-%u", variant);
	put_file(walk, path, 3);
	entry.mode = S_IFREG | (variant ? 0600 : 0644);
	put(walk, &entry, "/mixed/d");
	entry.mode = S_IFREG | 0644;
	entry.uid = variant;
	put(walk, &entry, "/mixed/e");
	entry.uid = 0;
	entry.mode = variant ? S_IFDIR | 0755 : S_IFREG | 0644;
	put(walk, &entry, "/mixed/f");
	if (variant)
		put_file(walk, "/mixed/f/inside", 9);
	entry.mode = S_IFREG | 0644;
	entry.flags = TREE_UNREADABLE;
	put(walk, &entry, "/mixed/g");
	entry.flags = 0;
	entry.size += variant;
	put(walk, &entry, "/mixed/h");
}

static bool is(const char *path, const char *prefix)
{
	return !strncmp(path, prefix, strlen(prefix));
}

static void put_root(struct fake_walk *walk, const char *root, unsigned int variant)
{
	const char *number = strrchr(root, '/') + 1;
	char path[64];

	if (is(root, "/mixed"))
		put_mixed(walk, variant);
	if (is(root, "/only/") && (unsigned int)atoi(number) == variant)
		put_file(walk, root, 1);
	if (!is(root, "/same/") && !is(root, "/other/"))
		return;
	put_directory(walk, root);
	for (int i = 0; i < atoi(number); i++) {
		(void)snprintf(path, sizeof(path), "%s/%07d", root, i);
		put_file(walk, path, is(root, "/same/") ? 1 : variant);
	}
}

static void page_send(struct fake_agent *agent, uint32_t id, uint32_t count, const void *bytes,
		      size_t length)
{
	const struct msg_tree_entries head = { .count = count };

	fake_send(agent, MSG_TREE_ENTRIES, id, &head, sizeof(head), bytes, length);
}

static void walk_end(struct fake_walk *walk)
{
	free(walk->bytes);
	*walk = (struct fake_walk){ 0 };
}

/* Sends what there is credit for. */
static void walk_progress(struct fake_agent *agent, struct fake_walk *walk)
{
	while (walk->credit >= TREE_PAGE_MAX) {
		size_t length = 0;
		uint32_t count = 0;

		while (count < PAGE_ENTRIES && count < walk->left) {
			struct tree_entry entry;

			memcpy(&entry, walk->bytes + walk->at + length, sizeof(entry));
			length += sizeof(entry) + entry.path_length;
			count++;
		}
		page_send(agent, walk->id, count, walk->bytes + walk->at, length);
		walk->credit -= length + sizeof(struct msg_tree_entries);
		walk->at += length;
		walk->left -= count;
		if (!count) {
			walk_end(walk);
			return;
		}
	}
}

/* Walks that a guest must not send; false when the path names none. */
static bool walk_misbehave(struct fake_agent *agent, uint32_t id, const char *root)
{
	struct fake_walk walk = { 0 };
	struct tree_entry cut = { .mode = S_IFREG, .path_length = 100 };
	static uint8_t much[TREE_PAGE_MAX];

	if (is(root, "/bad/order")) {
		put_file(&walk, "/bad/order/b", 1);
		put_file(&walk, "/bad/order/a", 1);
	} else if (is(root, "/bad/twice")) {
		put_file(&walk, "/bad/twice", 1);
		put_file(&walk, "/bad/twice", 1);
	} else if (is(root, "/bad/outside")) {
		put_file(&walk, "/bad/outsider", 1);
	} else if (is(root, "/bad/relative")) {
		put_file(&walk, "bad/relative", 1);
	} else if (is(root, "/bad/empty")) {
		put_file(&walk, "", 1);
	} else if (is(root, "/bad/cut")) {
		page_send(agent, id, 1, &cut, sizeof(cut));
	} else if (is(root, "/bad/short")) {
		page_send(agent, id, 1, &cut, 10);
	} else if (is(root, "/bad/behind")) {
		page_send(agent, id, 0, "xyz", 3);
	} else if (is(root, "/bad/huge")) {
		page_send(agent, id, 1, much, sizeof(much));
	} else if (is(root, "/bad/type")) {
		fake_send(agent, MSG_OK, id, NULL, 0, NULL, 0);
	} else if (is(root, "/refuse")) {
		fake_send_error(agent, id, EINVAL, "/refuse is on a virtual file system (proc)");
	} else if (is(root, "/die")) {
		(void)signal(SIGILL, SIG_DFL);
		__builtin_trap();
	} else {
		return false;
	}
	if (walk.left)
		page_send(agent, id, walk.left, walk.bytes, walk.length);
	free(walk.bytes);
	return true;
}

void fake_tree_take(struct fake_agent *agent, const struct frame *frame)
{
	const char *at = (const char *)frame->payload + sizeof(struct msg_tree);
	struct fake_walk *walk = walk_find(agent, 0);
	unsigned int variant = agent->host ? agent->host->peek(agent->host->arg, VARIANT_PAGE) : 0;
	struct msg_tree message;

	frame_fixed(frame, &message, sizeof(message));
	if (!message.root_count || message.root_count > TREE_ROOTS_MAX || !walk)
		_exit(98); /* the engine is wrong; tests see the status */
	if (walk_misbehave(agent, frame->id, at))
		return;
	*walk = (struct fake_walk){ .id = frame->id, .credit = message.credit };
	for (uint32_t i = 0; i < message.root_count; i++) {
		if (is(at, "/never") && variant)
			return; /* one of two never answers */
		put_root(walk, at, variant);
		at += strlen(at) + 1;
	}
	if (at != (const char *)frame->payload + frame->length)
		_exit(99);
	walk_progress(agent, walk);
}

bool fake_tree_credit(struct fake_agent *agent, uint32_t id, uint32_t bytes)
{
	struct fake_walk *walk = id ? walk_find(agent, id) : NULL;

	if (!walk)
		return false;
	walk->credit += bytes;
	walk_progress(agent, walk);
	return true;
}

bool fake_tree_cancel(struct fake_agent *agent, uint32_t id)
{
	struct fake_walk *walk = id ? walk_find(agent, id) : NULL;

	if (!walk)
		return false;
	walk_end(walk);
	fake_send_error(agent, id, ECANCELED, "cancelled");
	return true;
}
