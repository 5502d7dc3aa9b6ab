/* The fork tree: who is whose copy. See engine.h. */
#include <stdio.h>
#include <string.h>

#include "engine/internal.h"

void tree_add(struct sandbox *parent, struct sandbox *child)
{
	child->parent = parent;
	(void)snprintf(child->parent_id, sizeof(child->parent_id), "%s", parent->id);
	TAILQ_INSERT_TAIL(&parent->children, child, sibling);
}

static void tree_unlink(struct sandbox *sandbox)
{
	if (sandbox->parent)
		TAILQ_REMOVE(&sandbox->parent->children, sandbox, sibling);
	sandbox->parent = NULL;
}

void tree_remove(struct sandbox *sandbox)
{
	struct sandbox *child;

	tree_unlink(sandbox);
	while ((child = TAILQ_FIRST(&sandbox->children)))
		tree_unlink(child);
}

static bool tree_is_above(const struct sandbox *above, const struct sandbox *below)
{
	while (below && below != above)
		below = below->parent;
	return below != NULL;
}

void tree_replace(struct sandbox *from, struct sandbox *into)
{
	bool stays = tree_is_above(into, from);
	struct sandbox *child;

	if (!stays)
		tree_unlink(into);
	while ((child = TAILQ_FIRST(&from->children))) {
		tree_unlink(child);
		tree_add(into, child);
	}
	TAILQ_FOREACH(child, &into->children, sibling)
	memcpy(child->parent_id, into->id, sizeof(child->parent_id));
	if (from->parent && !stays)
		tree_add(from->parent, into);
	else if (!stays)
		memcpy(into->parent_id, from->parent_id, sizeof(into->parent_id));
	tree_unlink(from);
}

unsigned int tree_count(const struct sandbox *sandbox)
{
	const struct sandbox *child;
	unsigned int n = 0;

	TAILQ_FOREACH(child, &sandbox->children, sibling)
	n++;
	return n;
}

static const struct sandbox *tree_root(const struct sandbox *sandbox)
{
	while (sandbox->parent)
		sandbox = sandbox->parent;
	return sandbox;
}

bool tree_related(const struct sandbox *a, const struct sandbox *b)
{
	return tree_root(a) == tree_root(b);
}

/* The next in the order of a visit, and how much deeper it is. */
static struct sandbox *tree_next(struct sandbox *at, unsigned int *depth)
{
	if (!TAILQ_EMPTY(&at->children)) {
		(*depth)++;
		return TAILQ_FIRST(&at->children);
	}
	while (at->parent && !TAILQ_NEXT(at, sibling)) {
		at = at->parent;
		(*depth)--;
	}
	return at->parent ? TAILQ_NEXT(at, sibling) : NULL;
}

void engine_tree(struct engine *engine,
		 bool (*visit)(void *arg, struct sandbox *sandbox, unsigned int depth), void *arg)
{
	struct sandbox *root;

	TAILQ_FOREACH(root, &engine->sandboxes, link)
	{
		unsigned int depth = 0;

		if (root->parent)
			continue;
		for (struct sandbox *at = root; at; at = tree_next(at, &depth))
			if (!visit(arg, at, depth))
				return;
	}
}
